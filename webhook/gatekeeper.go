package webhook

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/assay-dev/assay/engine"
)

// ExternalData answers Gatekeeper's external data requests
// (https://open-policy-agent.github.io/gatekeeper/website/docs/externaldata): each key is
// an image reference, and its value what the engine says of it. It may be used concurrently.
type ExternalData struct {
	Engine *engine.Engine
	Ready  func() error
	Now    func() time.Time
}

const (
	externalDataVersion = "externaldata.gatekeeper.sh/v1beta1"
	// maxKeys bounds the keys of one request, as a Pod bounds its containers.
	maxKeys = 1000
)

type providerRequest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Request    struct {
		Keys []string `json:"keys"` // nil when there are none
	} `json:"request"`
}

type providerResponse struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Response   struct {
		Idempotent  bool           `json:"idempotent"`
		Items       []providerItem `json:"items"`
		SystemError string         `json:"systemError,omitempty"`
	} `json:"response"`
}

type providerItem struct {
	Key   string `json:"key"`
	Value any    `json:"value,omitempty"`
	Error string `json:"error,omitempty"`
}

// ServeHTTP answers one ProviderRequest. What cannot be classified is an error of its key.
func (x *ExternalData) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := readBody(w, r)
	if err != nil {
		return
	}
	out := providerResponse{APIVersion: externalDataVersion, Kind: "ProviderResponse"}
	out.Response.Items = []providerItem{}
	var in providerRequest
	switch err := json.Unmarshal(text, &in); {
	case err != nil:
		out.Response.SystemError = fmt.Sprintf("the request is no JSON: %v", err)
	case in.Kind != "ProviderRequest" || in.APIVersion != externalDataVersion:
		out.Response.SystemError = fmt.Sprintf("want a ProviderRequest of %s, not a %.60q of %.60q", externalDataVersion, in.Kind, in.APIVersion)
	case in.Request.Keys == nil:
		out.Response.SystemError = "the request has no keys"
	case len(in.Request.Keys) > maxKeys:
		out.Response.SystemError = fmt.Sprintf("%d keys; at most %d are answered", len(in.Request.Keys), maxKeys)
	default:
		if err := x.Ready(); err != nil {
			out.Response.SystemError = err.Error()
			break
		}
		now := x.Now()
		for _, key := range in.Request.Keys {
			item := providerItem{Key: key}
			if c, err := x.Engine.Classify(r.Context(), key, "", now); err != nil {
				item.Error = err.Error()
			} else {
				item.Value = c
			}
			out.Response.Items = append(out.Response.Items, item)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}
