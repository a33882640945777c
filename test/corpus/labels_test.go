package corpus

import (
	"reflect"
	"testing"

	"github.com/assay-dev/assay/test/reference"
)

// Labels of templates make a difference where they count.
func TestLabelsOfTemplatesAreVaried(t *testing.T) {
	differ := 0
	for seed := range uint64(seeds) {
		c := Generate(seed)
		if c.World.Settings == nil || !c.World.Settings.Spec.TemplateLabels {
			continue
		}
		without := *c.World.Settings
		without.Spec.TemplateLabels = false
		w := c.World
		w.Settings = &without
		for _, r := range c.Reviews {
			if !reflect.DeepEqual(reference.Admit(c.World, r, c.Now), reference.Admit(w, r, c.Now)) {
				differ++
			}
		}
	}
	if t.Log(differ); differ < 3 {
		t.Errorf("they decide %d reviews of %d cases", differ, seeds)
	}
}
