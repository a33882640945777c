package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Claims are the images of a node whose SBOMs it would make, or gives up making.
type Claims struct {
	Cluster string   `json:"cluster"`
	Node    string   `json:"node"`
	Digests []string `json:"digests"` // of platforms' manifests, at most MaxClaims
}

// MaxClaims bounds the digests of one request.
const MaxClaims = 1000

// States of a claim.
const (
	ClaimScan    = "scan"    // this node makes the SBOM and sends it before Until
	ClaimKnown   = "known"   // the server has the SBOM
	ClaimClaimed = "claimed" // another node makes it: ask again after Until
)

// Claim is what the server says of one image.
type Claim struct {
	Digest string    `json:"digest"`
	State  string    `json:"state"`
	Until  time.Time `json:"until"`
}

// Claims asks which of a node's images it is to scan.
func (c *Client) Claims(ctx context.Context, asked Claims) ([]Claim, error) {
	text, err := json.Marshal(asked)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Items []Claim `json:"items"`
	}
	if err := c.json(ctx, http.MethodPost, "claims", nil, text, &answer); err != nil {
		return nil, err
	}
	for _, item := range answer.Items {
		switch item.State {
		case ClaimScan, ClaimKnown, ClaimClaimed:
		default:
			return nil, fmt.Errorf("sending claims: the server answers %.40q, which is no state of a claim: it is of another version", item.State)
		}
	}
	return answer.Items, nil
}

// ReleaseClaims gives claims back, so that another node makes those SBOMs.
func (c *Client) ReleaseClaims(ctx context.Context, given Claims) error {
	text, err := json.Marshal(given)
	if err != nil {
		return err
	}
	return c.json(ctx, http.MethodDelete, "claims", nil, text, nil)
}

// Instance is a container that runs.
type Instance struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
	// Image is the reference as the container has it.
	Image string `json:"image"`
	// Digest is that of the platform's manifest, ConfigDigest the runtime's id of the
	// image; "" where they are not known.
	Digest       string `json:"digest,omitempty"`
	ConfigDigest string `json:"config_digest,omitempty"`
}

// InstanceKey names a container.
type InstanceKey struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
}

// Instances are all containers of a node.
type Instances struct {
	Cluster string `json:"cluster"`
	Node    string `json:"node"`
	// Epoch is a random name of this report and the changes that follow; Sequence is 0.
	Epoch     string     `json:"epoch"`
	Sequence  int64      `json:"sequence"`
	Instances []Instance `json:"instances"`
}

// InstanceChanges are what changed after a report: Sequence is one more than before. With
// the same sequence and no change they only say that the node is there.
type InstanceChanges struct {
	Cluster  string        `json:"cluster"`
	Node     string        `json:"node"`
	Epoch    string        `json:"epoch"`
	Sequence int64         `json:"sequence"`
	Set      []Instance    `json:"set"`
	Removed  []InstanceKey `json:"removed"`
}

// PutInstances reports all containers of a node.
func (c *Client) PutInstances(ctx context.Context, all Instances) error {
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return c.json(ctx, http.MethodPut, "instances", nil, text, nil)
}

// ChangeInstances reports changes. An [Error] with status 409 asks for all of them by
// [Client.PutInstances].
func (c *Client) ChangeInstances(ctx context.Context, changes InstanceChanges) error {
	text, err := json.Marshal(changes)
	if err != nil {
		return err
	}
	return c.json(ctx, http.MethodPost, "instances/changes", nil, text, nil)
}
