package mutation

import (
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

type outcome int

const (
	absent         outcome = iota // not in this world
	stillborn                     // does not compile
	survived                      // noticed by nothing
	caughtByRego                  // by a test beside the module
	caughtByCorpus                // by the agreement with the plain reference
)

// trial is a mutant with what judges it: the tests alone, if there are any, and
// then world after world of the corpus.
type trial struct {
	id, place string
	alone     func() outcome
	in        func(w *world) outcome
	outcome   outcome
}

// chosen are the mutants to try: all of them with ASSAY_MUTATION=full, those that a
// regular expression in its place matches, or else each stride-th that is not listed
// as equivalent, which only a long search would confirm.
func chosen(trials []trial, equivalent map[string]bool, stride int) []trial {
	var out []trial
	switch which := os.Getenv("ASSAY_MUTATION"); which {
	case "full":
		return trials
	case "":
		for i := 0; i < len(trials); i += stride {
			if !equivalent[trials[i].id] {
				out = append(out, trials[i])
			}
		}
	default:
		matching := regexp.MustCompile(which)
		for _, m := range trials {
			if matching.MatchString(m.id) {
				out = append(out, m)
			}
		}
	}
	return out
}

const (
	seeds = 60 // of the corpus
	batch = 6  // worlds made at a time
)

// judge tries the mutants, or each stride-th of them, and fails for each that
// survives and is not listed as equivalent, and for each entry of that list
// that names no mutant or one that is caught.
func judge(t *testing.T, part string, trials []trial, stride int) {
	t.Helper()
	start := time.Now()
	equivalent := equivalents(t, part)
	known := map[string]bool{}
	for _, m := range trials {
		known[m.id] = true
	}
	for id := range equivalent {
		if !known[id] {
			t.Errorf("equivalent.txt names what is no mutant: %s", id)
		}
	}
	trials = chosen(trials, equivalent, stride)
	var left []*trial
	for i := range trials {
		left = append(left, &trials[i])
	}
	try := func(once func(*trial)) {
		parallel(left, once)
		left = slices.DeleteFunc(left, func(m *trial) bool {
			return m.outcome != absent && m.outcome != survived // what does not compile in six worlds does in none
		})
	}
	try(func(m *trial) {
		if m.alone != nil {
			m.outcome = m.alone()
		}
	})
	t.Logf("%s: %d of %d mutants are left to the corpus after %v", part, len(left), len(trials), time.Since(start).Round(time.Second))
	for from := uint64(0); from < seeds && len(left) > 0; from += batch {
		all := worlds(t, from, from+batch)
		try(func(m *trial) {
			for _, w := range all {
				if m.outcome = max(m.outcome, m.in(w)); m.outcome == caughtByCorpus {
					return
				}
			}
		})
	}

	count := map[outcome]int{}
	for _, m := range trials {
		count[m.outcome]++
		switch {
		case m.outcome > survived && equivalent[m.id]:
			t.Errorf("%s: listed as equivalent, but caught: %s", m.place, m.id)
		case m.outcome == survived && !equivalent[m.id]:
			t.Errorf("%s: survives: %s", m.place, m.id)
		}
	}
	if os.Getenv("ASSAY_MUTATION") == "full" && count[caughtByRego]+count[caughtByCorpus] == 0 || len(trials) == 0 && os.Getenv("ASSAY_MUTATION") == "" {
		t.Errorf("%s: no mutant was tried and caught", part)
	}
	t.Logf("%s: %d mutants: %d stillborn, %d caught by Rego tests, %d by the corpus alone, %d not; %v",
		part, len(trials), count[stillborn], count[caughtByRego], count[caughtByCorpus], count[survived], time.Since(start).Round(time.Second))
}

// parallel does one thing with each trial, on all processors.
func parallel(trials []*trial, once func(*trial)) {
	next := make(chan *trial)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for m := range next {
				once(m)
			}
		})
	}
	for _, m := range trials {
		next <- m
	}
	close(next)
	workers.Wait()
}

// equivalents reads equivalent.txt: for each mutant a line "part mutant", then
// the proof on lines that begin with a tab, for all mutants above it. A "#"
// starts a comment.
func equivalents(t *testing.T, part string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("equivalent.txt")
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	unproved := 0
	for n, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "#") || line == "" && unproved == 0:
		case line == "":
			t.Errorf("equivalent.txt:%d: a mutant without a proof", n)
		case strings.HasPrefix(line, "\t"):
			unproved = 0
		default:
			unproved++
			if id, ok := strings.CutPrefix(line, part+" "); ok {
				ids[id] = true
			}
		}
	}
	return ids
}
