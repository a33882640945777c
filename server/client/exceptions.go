package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/assay-dev/assay/api"
)

// ExceptionRequest is an exception that waits for a second person, or did.
type ExceptionRequest struct {
	ID        int64                      `json:"id"`
	Exception api.VulnerabilityException `json:"exception"`
	Requester string                     `json:"requester"`
	Requested string                     `json:"requested"` // RFC 3339
	State     string                     `json:"state"`     // pending, approved or refused
	Decider   string                     `json:"decider"`
	Decided   string                     `json:"decided"`
	Reason    string                     `json:"reason"`
}

// ExceptionRequests are the newest 1000 in a state; "" is any.
func (c *Client) ExceptionRequests(ctx context.Context, state string) ([]ExceptionRequest, error) {
	query := url.Values{"limit": {"1000"}}
	if state != "" {
		query.Set("state", state)
	}
	var answer struct {
		Items []ExceptionRequest `json:"items"`
	}
	err := c.call(ctx, request{method: http.MethodGet, what: "exception-requests", query: query}, &answer)
	return answer.Items, err
}

// DecideException approves or refuses a request of somebody else, with a reason.
func (c *Client) DecideException(ctx context.Context, id int64, approve bool, reason string) (decided ExceptionRequest, err error) {
	text, err := json.Marshal(map[string]string{"reason": reason})
	if err != nil {
		return decided, err
	}
	what := fmt.Sprintf("exception-requests/%d/%s", id, map[bool]string{true: "approve", false: "refuse"}[approve])
	return decided, c.json(ctx, http.MethodPost, what, nil, text, &decided)
}
