package reports

import (
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of the API.
var GroupVersion = schema.GroupVersion{Group: "reports.assay.dev", Version: "v1alpha1"}

// Labels of the objects, where their values are valid ones.
const (
	LabelResult     = "assay.dev/result"
	LabelRepository = "assay.dev/repository"
	LabelCluster    = "assay.dev/cluster"
	LabelKEV        = "assay.dev/kev"
	LabelFixable    = "assay.dev/fixable"
)

// ImageScanSummary is what lists show of a (reference, digest).
type ImageScanSummary struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Report            `json:",inline"`
}

// ImageScan is that with the vulnerabilities, which lists leave out.
type ImageScan struct {
	metav1.TypeMeta     `json:",inline"`
	metav1.ObjectMeta   `json:"metadata"`
	Report              `json:",inline"`
	Vulnerabilities     []Vulnerability `json:"vulnerabilities,omitempty"`
	MoreVulnerabilities int             `json:"moreVulnerabilities,omitempty"`
}

// Report is the result of an image and what it rests on.
type Report struct {
	Image      string       `json:"image"`
	Digest     string       `json:"digest,omitempty"`
	Registry   string       `json:"registry"`
	Repository string       `json:"repository"`
	Tag        string       `json:"tag,omitempty"`
	Platform   string       `json:"platform,omitempty"`
	Distro     string       `json:"distro,omitempty"`
	Result     string       `json:"result"`
	MaxCVSS    *float64     `json:"maxCVSS,omitempty"`
	ScannedAt  *metav1.Time `json:"scannedAt,omitempty"`
	Severities Severities   `json:"severities"`
	Fixable    int          `json:"fixable"`
	KEV        int          `json:"kev"`
	Packages   int          `json:"packages"`
	Instances  int          `json:"instances"`
	Source     string       `json:"source,omitempty"`
	Error      string       `json:"error,omitempty"`
}

// Severities are numbers of vulnerabilities.
type Severities struct {
	Critical   int `json:"critical"`
	High       int `json:"high"`
	Medium     int `json:"medium"`
	Low        int `json:"low"`
	Negligible int `json:"negligible"`
	Unknown    int `json:"unknown"`
}

// Vulnerability is one CVE or advisory in one package.
type Vulnerability struct {
	ID        string   `json:"id"`
	Package   string   `json:"package"`
	Version   string   `json:"version,omitempty"`
	Type      string   `json:"type,omitempty"`
	Severity  string   `json:"severity"`
	CVSS      *float64 `json:"cvss,omitempty"`
	EPSS      *float64 `json:"epss,omitempty"`
	KEV       bool     `json:"kev"`
	Fix       string   `json:"fix,omitempty"`
	FixedIn   []string `json:"fixedIn,omitempty"`
	Exception string   `json:"exception,omitempty"`
}

// RunningImage is the image of a container that runs.
type RunningImage struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Cluster           string       `json:"cluster,omitempty"`
	Pod               string       `json:"pod"`
	Container         string       `json:"container"`
	Node              string       `json:"node,omitempty"`
	Image             string       `json:"image"`
	Digest            string       `json:"digest,omitempty"`
	Result            string       `json:"result"`
	MaxCVSS           *float64     `json:"maxCVSS,omitempty"`
	LastSeen          *metav1.Time `json:"lastSeen,omitempty"`
}

// List is a page of objects.
type List[T any] struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []T `json:"items"`
}

// clone copies what a pointer leads to.
func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

func (r Report) deepCopy() Report {
	r.MaxCVSS, r.ScannedAt = clone(r.MaxCVSS), r.ScannedAt.DeepCopy()
	return r
}

// DeepCopyObject implements [runtime.Object], as those below.
func (s *ImageScanSummary) DeepCopyObject() runtime.Object {
	return &ImageScanSummary{s.TypeMeta, *s.ObjectMeta.DeepCopy(), s.Report.deepCopy()}
}

func (s *ImageScan) DeepCopyObject() runtime.Object {
	c := &ImageScan{s.TypeMeta, *s.ObjectMeta.DeepCopy(), s.Report.deepCopy(), slices.Clone(s.Vulnerabilities), s.MoreVulnerabilities}
	for i := range c.Vulnerabilities {
		v := &c.Vulnerabilities[i]
		v.CVSS, v.EPSS, v.FixedIn = clone(v.CVSS), clone(v.EPSS), slices.Clone(v.FixedIn)
	}
	return c
}

func (r *RunningImage) DeepCopyObject() runtime.Object {
	c := *r
	c.ObjectMeta, c.MaxCVSS, c.LastSeen = *r.ObjectMeta.DeepCopy(), clone(r.MaxCVSS), r.LastSeen.DeepCopy()
	return &c
}

func (l *List[T]) DeepCopyObject() runtime.Object {
	c := &List[T]{l.TypeMeta, *l.ListMeta.DeepCopy(), slices.Clone(l.Items)}
	for i := range c.Items {
		c.Items[i] = *any(any(&c.Items[i]).(runtime.Object).DeepCopyObject()).(*T)
	}
	return c
}

// model is the name of a kind in the description of the API.
func model(kind string) string { return "dev.assay.reports.v1alpha1." + kind }

// OpenAPIModelName is the name in the description, as those below.
func (ImageScanSummary) OpenAPIModelName() string { return model("ImageScanSummary") }
func (ImageScan) OpenAPIModelName() string        { return model("ImageScan") }
func (RunningImage) OpenAPIModelName() string     { return model("RunningImage") }
func (List[T]) OpenAPIModelName() string {
	return model(reflect.TypeFor[T]().Name() + "List")
}

// SwaggerDoc describes the fields to `kubectl explain`, as those below.
func (ImageScanSummary) SwaggerDoc() map[string]string {
	return map[string]string{"": "ImageScanSummary is the result of an image: of a reference and a digest."}
}

func (ImageScan) SwaggerDoc() map[string]string {
	return map[string]string{
		"":                    "ImageScan is the result of an image, of a reference and a digest, with its vulnerabilities. Lists leave these out.",
		"vulnerabilities":     "Those of the newest scan, the highest score first.",
		"moreVulnerabilities": "How many are left out.",
	}
}

func (Report) SwaggerDoc() map[string]string {
	return map[string]string{
		"image":      "The reference, as registry/repository:tag or registry/repository@digest.",
		"digest":     "That of the platform manifest.",
		"registry":   "All of the name but its last component.",
		"repository": "The last component of the name.",
		"platform":   "Such as linux/amd64.",
		"distro":     "The distribution found, such as debian 12.",
		"result":     "Pass, Warn, Fail or Unknown, after exceptions.",
		"maxCVSS":    "The highest CVSS score of a vulnerability that no exception covers; absent when none has one.",
		"scannedAt":  "When the newest scan was made.",
		"severities": "Numbers of vulnerabilities, each counted once with the worst severity that it has in a package. Exceptions do not change them.",
		"fixable":    "Number of vulnerabilities that have a fix.",
		"kev":        "Number of vulnerabilities that are known to be exploited.",
		"packages":   "Number of packages.",
		"instances":  "Number of containers that run it.",
		"source":     "What was read for the last scan.",
		"error":      "Why the last scan failed.",
	}
}

func (Vulnerability) SwaggerDoc() map[string]string {
	return map[string]string{
		"":          "Vulnerability is one CVE or advisory in one package.",
		"cvss":      "The CVSS v3 base score.",
		"epss":      "The probability (0 to 1) of exploitation in the next 30 days.",
		"kev":       "Whether it is known to be exploited.",
		"fix":       "fixed, not-fixed, wont-fix or unknown.",
		"fixedIn":   "Versions that have the fix.",
		"exception": "The justification of the exception that covers it now.",
	}
}

func (RunningImage) SwaggerDoc() map[string]string {
	return map[string]string{
		"":          "RunningImage is the image of a container that runs.",
		"cluster":   "Where it runs.",
		"pod":       "The name of the pod.",
		"container": "The name of the container in the pod.",
		"image":     "The reference as the container has it.",
		"digest":    "Of the manifest or the index, as the runtime reports it.",
		"result":    "Pass, Warn, Fail or Unknown, after exceptions.",
		"maxCVSS":   "The highest CVSS score of a vulnerability that no exception covers; absent when none has one.",
		"lastSeen":  "When it was last reported.",
	}
}
