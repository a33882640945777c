package match

import (
	"testing"

	"github.com/anchore/grype/grype/vulnerability"
)

func TestBestScore(t *testing.T) {
	cvss := func(source, version string, score float64) vulnerability.Cvss {
		return vulnerability.Cvss{Source: source, Version: version, Metrics: vulnerability.CvssMetrics{BaseScore: score}}
	}
	const nvd = "nvd@nist.gov"
	for name, c := range map[string]struct {
		scores []vulnerability.Cvss
		want   float64
	}{
		"NVD before others":      {[]vulnerability.Cvss{cvss("", "3.1", 9.8), cvss(nvd, "3.0", 5.5)}, 5.5},
		"3.1 before 3.0":         {[]vulnerability.Cvss{cvss(nvd, "3.0", 9.8), cvss(nvd, "3.1", 5.5)}, 5.5},
		"the highest":            {[]vulnerability.Cvss{cvss("a", "3.1", 5), cvss("b", "3.1", 6), cvss("c", "3.1", 4)}, 6},
		"v2 and v4 do not count": {[]vulnerability.Cvss{cvss(nvd, "2.0", 10), cvss(nvd, "4.0", 9), cvss("", "3.0", 1)}, 1},
		"zero is a score":        {[]vulnerability.Cvss{cvss(nvd, "3.1", 0)}, 0},
		"none":                   {[]vulnerability.Cvss{cvss(nvd, "2.0", 10)}, -1},
	} {
		got := -1.0
		if s := bestScore(c.scores); s != nil {
			got = s.Metrics.BaseScore
		}
		if got != c.want {
			t.Errorf("%s: %v, not %v", name, got, c.want)
		}
	}
}
