package main

import (
	"testing"
	"time"
)

// All contenders admit, and all figures are there; none is judged on a busy machine.
func TestBench(t *testing.T) {
	report, err := run(t.Context(), config{rounds: 2, pods: 2, images: 64, load: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Creates) != 2*10 || len(report.Load) != 3 || len(report.Sizes) != 6 {
		t.Errorf("%+v", report)
	}
	for _, c := range report.Creates {
		if c.Count == 0 || c.P50 <= 0 {
			t.Errorf("%+v", c)
		}
	}
	for _, l := range report.Load {
		if l.Errors > 0 || l.PerSecond == 0 {
			t.Errorf("%+v", l)
		}
	}
}
