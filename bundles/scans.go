package bundles

import (
	"fmt"
	"io"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/stream"
)

// scanBounds are those of a file of scan reports.
var scanBounds = stream.Config{Document: 2 << 30, Total: 2 << 30, Nodes: 50_000_000, Depth: 1000}

// ReadScans reads the scan reports of a file of some name. What they claim as results
// does not count. The error is [stream.Diagnostics] where a document is wrong.
func ReadScans(name string, in io.Reader) ([]api.Scan, error) {
	var scans []api.Scan
	found := false
	err := stream.Each(name, in, scanBounds, func(d *stream.Document) error {
		found = true
		var report api.ScanReport
		if err := d.Unmarshal(&report); err != nil {
			return err
		}
		scans = append(scans, report.Images...)
		return report.Validate()
	})
	if err == nil && !found {
		err = fmt.Errorf("%s: not a scan report: it is empty", name)
	}
	if err != nil {
		return nil, err
	}
	return scans, nil
}
