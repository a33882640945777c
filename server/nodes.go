package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/store"
)

// InstanceReport says what runs on a node, or with an empty node in the whole cluster.
type InstanceReport struct {
	Cluster string `json:"cluster"`
	Node    string `json:"node,omitempty"`
	// Epoch, where given, names a run of the node's agent that will report changes and heartbeats.
	Epoch     string           `json:"epoch,omitempty"`
	Sequence  int64            `json:"sequence,omitempty"`
	Instances []store.Instance `json:"instances"`
}

// InstanceChanges say what changed on a node since its last report: Sequence is one more than
// then. With the same sequence and no change they are a heartbeat.
type InstanceChanges struct {
	Cluster  string              `json:"cluster"`
	Node     string              `json:"node"`
	Epoch    string              `json:"epoch"`
	Sequence int64               `json:"sequence"`
	Set      []store.Instance    `json:"set"`
	Removed  []store.InstanceKey `json:"removed"`
}

const (
	// maxInstances bounds the containers of one report.
	maxInstances = 100_000
	// maxName bounds names of clusters, nodes and epochs, in bytes.
	maxName = 253
)

// putInstances puts what runs in the place of what ran.
func (s *Server) putInstances(w http.ResponseWriter, r *http.Request) error {
	var report InstanceReport
	if err := s.decode(w, r, &report); err != nil {
		return err
	}
	faults, err := reporter(identity(r), report.Cluster, report.Node, report.Epoch, report.Sequence)
	if err != nil {
		return err
	}
	if len(report.Instances) > maxInstances {
		return unprocessable("a report has at most %d instances", maxInstances)
	}
	faults = append(faults, s.checkInstances("/instances", report.Cluster, report.Node, report.Instances)...)
	if faults != nil {
		return notStored(faults)
	}
	if err := s.handIn(r, func(t *store.Tx) error {
		return t.Report(r.Context(), store.NodeReport{Cluster: report.Cluster, Node: report.Node, Epoch: report.Epoch, Sequence: report.Sequence}, report.Instances)
	}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func notStored(faults []Fault) error {
	return &refused{status: http.StatusUnprocessableEntity, detail: "nothing was stored: some of the report is not valid", faults: faults}
}

// reporter checks who reports.
func reporter(id auth.Identity, cluster, node, epoch string, sequence int64) (faults []Fault, err error) {
	if !id.Scope.AllowsCluster(cluster) {
		return nil, forbidden("the token is for %s, and this speaks of the whole cluster %.100q", id.Scope, cluster)
	}
	for _, x := range []struct {
		name, value string
		needed      bool
	}{{"/cluster", cluster, true}, {"/node", node, epoch != ""}, {"/epoch", epoch, false}} {
		switch {
		case x.needed && x.value == "":
			faults = listFault(faults, Fault{Pointer: x.name, Detail: "is missing"})
		case len(x.value) > maxName:
			faults = listFault(faults, Fault{Pointer: x.name, Detail: fmt.Sprintf("is longer than %d bytes", maxName)})
		}
		faults = append(faults, plain(x.name, x.value)...)
	}
	if sequence < 0 {
		faults = listFault(faults, Fault{Pointer: "/sequence", Detail: "is negative"})
	}
	return faults, nil
}

// checkInstances completes containers, and gives what is wrong with them.
func (s *Server) checkInstances(path, cluster, node string, list []store.Instance) (faults []Fault) {
	for i := range list {
		x := &list[i]
		at := fmt.Sprintf("%s/%d", path, i)
		if _, err := api.ParseReference(x.Image); err != nil {
			faults = listFault(faults, Fault{Pointer: at + "/image", Detail: err.Error()})
		}
		for name, digest := range map[string]string{"/digest": x.Digest, "/config_digest": x.ConfigDigest} {
			if err := (api.Scan{Digest: digest, ScannedAt: s.Now()}).Validate(); err != nil {
				faults = listFault(faults, Fault{Pointer: at + name, Detail: err.Error()})
			}
		}
		if x.Namespace == "" || x.Pod == "" || x.Container == "" {
			faults = listFault(faults, Fault{Pointer: at, Detail: "namespace, pod and container are needed"})
		}
		if max(len(x.Namespace), len(x.Pod), len(x.Container), len(x.Node)) > maxName {
			faults = listFault(faults, Fault{Pointer: at, Detail: fmt.Sprintf("a name is longer than %d bytes", maxName)})
		}
		for _, name := range []string{x.Namespace, x.Pod, x.Container, x.Node} {
			for _, f := range plain(at, name) {
				faults = listFault(faults, f)
			}
		}
		if x.Cluster != "" && x.Cluster != cluster || x.Node != "" && node != "" && x.Node != node {
			faults = listFault(faults, Fault{Pointer: at, Detail: "is of another cluster or node than the report"})
		}
		x.Cluster = cluster
	}
	return faults
}

// postInstanceChanges stores what changed on a node, or that it is there.
func (s *Server) postInstanceChanges(w http.ResponseWriter, r *http.Request) error {
	var c InstanceChanges
	if err := s.decode(w, r, &c); err != nil {
		return err
	}
	faults, err := reporter(identity(r), c.Cluster, c.Node, c.Epoch, c.Sequence)
	if err != nil {
		return err
	}
	if c.Epoch == "" {
		faults = listFault(faults, Fault{Pointer: "/epoch", Detail: "is missing"})
	}
	if len(c.Set)+len(c.Removed) > maxInstances {
		return unprocessable("a report has at most %d instances", maxInstances)
	}
	faults = append(faults, s.checkInstances("/set", c.Cluster, c.Node, c.Set)...)
	if faults != nil {
		return notStored(faults)
	}
	text, err := json.Marshal([]any{c.Set, c.Removed})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	err = s.handIn(r, func(t *store.Tx) error {
		return t.ChangeInstances(r.Context(), store.NodeReport{Cluster: c.Cluster, Node: c.Node, Epoch: c.Epoch, Sequence: c.Sequence}, hex.EncodeToString(sum[:]), c.Set, c.Removed)
	})
	if errors.Is(err, store.ErrResync) {
		return &refused{status: http.StatusConflict, detail: "the changes do not follow what is known of the node: report everything by PUT /api/v1/instances"}
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// ClaimRequest names the images whose SBOMs a node would make, or gives up making.
type ClaimRequest struct {
	Cluster string   `json:"cluster"`
	Node    string   `json:"node"`
	Digests []string `json:"digests"` // of platforms' manifests, at most 1000
}

const (
	maxClaims = 1000
	// claimLease is how long a node has for an SBOM.
	claimLease = 15 * time.Minute
)

func (s *Server) claims(w http.ResponseWriter, r *http.Request) (q ClaimRequest, err error) {
	if err := s.decode(w, r, &q); err != nil {
		return q, err
	}
	faults, err := reporter(identity(r), q.Cluster, q.Node, "", 0)
	if err != nil {
		return q, err
	}
	if q.Node == "" {
		faults = listFault(faults, Fault{Pointer: "/node", Detail: "is missing"})
	}
	if len(q.Digests) > maxClaims {
		return q, unprocessable("at most %d images are asked for at a time", maxClaims)
	}
	for i, d := range q.Digests {
		if err := (api.Scan{Digest: d, ScannedAt: s.Now()}).Validate(); err != nil || d == "" {
			faults = listFault(faults, Fault{Pointer: fmt.Sprintf("/digests/%d", i), Detail: fmt.Sprintf("%.80q is no digest", d)})
		}
	}
	if faults != nil {
		return q, notStored(faults)
	}
	return q, nil
}

func (s *Server) postClaims(w http.ResponseWriter, r *http.Request) error {
	q, err := s.claims(w, r)
	if err != nil {
		return err
	}
	var list []store.Claim
	if err := s.handIn(r, func(t *store.Tx) (err error) {
		list, err = t.Claim(r.Context(), identity(r).Scope, q.Cluster, q.Node, q.Digests, claimLease)
		return err
	}); err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

func (s *Server) deleteClaims(w http.ResponseWriter, r *http.Request) error {
	q, err := s.claims(w, r)
	if err != nil {
		return err
	}
	if err := s.Store.Write(r.Context(), func(t *store.Tx) error {
		return t.Release(r.Context(), identity(r).Scope, q.Cluster, q.Node, q.Digests)
	}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) getClusters(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Store.Clusters(r.Context())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

func (s *Server) deleteCluster(w http.ResponseWriter, r *http.Request) error {
	if err := s.change(r, func(a *audited) error {
		if err := a.note("remove", auditCluster, r.PathValue("name"), nil, nil); err != nil {
			return err
		}
		return a.RemoveCluster(r.Context(), r.PathValue("name"))
	}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
