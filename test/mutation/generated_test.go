package mutation

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/assay-dev/assay/test/corpus"
)

// kinds are the mutants of the generated modules of a world, by kind and module.
func (w *world) kinds(t *testing.T) map[string]map[string][]Mutant {
	t.Helper()
	all := map[string]map[string][]Mutant{}
	for name, text := range w.texts {
		mutants, err := Mutants(name, text)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mutants {
			if all[m.Kind] == nil {
				all[m.Kind] = map[string][]Mutant{}
			}
			all[m.Kind][name] = append(all[m.Kind][name], m)
		}
	}
	return all
}

// TestGenerated holds that the corpus notices when one kind of condition, operator,
// constant or rule is changed in all that package policies generates.
func TestGenerated(t *testing.T) {
	ctx := context.Background()
	kinds := make([]map[string]map[string][]Mutant, seeds) // by seed
	texts := make([]map[string]string, seeds)
	all := map[string]bool{}
	for seed := range kinds {
		w := load(t, uint64(seed), corpus.Generate(uint64(seed)))
		kinds[seed], texts[seed] = w.kinds(t), w.texts
		for kind := range kinds[seed] {
			all[kind] = true
		}
	}
	var trials []trial
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		trials = append(trials, trial{id: kind, place: "policies", in: func(w *world) outcome {
			changed := map[string]string{}
			alerts := false
			for name, mutants := range kinds[w.seed][kind] {
				changed[name] = ApplyAll(texts[w.seed][name], mutants)
				alerts = name == "generated/alerts.rego"
			}
			if len(changed) == 0 {
				return absent
			}
			return w.judged(ctx, changed, func(entry string) bool { return (entry == entryAlerts) == alerts })
		}})
	}
	judge(t, "generated", trials, 40)
}
