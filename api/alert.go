package api

import "encoding/json"

// GlobalAlert raises alerts over the vulnerability data set
// (projectcalico.org/v3, cluster-scoped).
type GlobalAlert struct {
	TypeMeta
	Metadata ObjectMeta      `json:"metadata"`
	Spec     GlobalAlertSpec `json:"spec"`
	Status   json.RawMessage `json:"status,omitempty"`
}

// GlobalAlertTemplate has the same spec and only offers itself for copying.
type GlobalAlertTemplate struct {
	TypeMeta
	Metadata ObjectMeta      `json:"metadata"`
	Spec     GlobalAlertSpec `json:"spec"`
	Status   json.RawMessage `json:"status,omitempty"`
}

// GlobalAlertSpec is one alert rule.
type GlobalAlertSpec struct {
	Type        string `json:"type,omitempty"`    // "RuleBased" only
	Description string `json:"description"`       // a template, as Summary
	Summary     string `json:"summary,omitempty"` // a template of ${field}; absent: Description
	Severity    int    `json:"severity"`          // 1–100
	Period      string `json:"period,omitempty"`  // Go duration; absent: 5m
	Lookback    string `json:"lookback,omitempty"`
	DataSet     string `json:"dataSet"` // "vulnerability" only
	Query       string `json:"query,omitempty"`
	// AggregateBy lists the fields that make up the key of an alert.
	AggregateBy []string `json:"aggregateBy,omitempty"`
	// Metric is count, min, max, sum or avg; Field is what it is taken of.
	Metric string `json:"metric,omitempty"`
	Field  string `json:"field,omitempty"`
	// Condition is eq, not_eq, lt, lte, gt or gte.
	Condition     string         `json:"condition,omitempty"`
	Threshold     *float64       `json:"threshold,omitempty"` // absent beside a metric: 0
	Substitutions []Substitution `json:"substitutions,omitempty"`
}

// Substitution gives ${name} in a query its values.
type Substitution struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// Defaults of a GlobalAlert.
const (
	DefaultPeriod   = "5m"
	DefaultLookback = "10m"
)

// VerdictAlert raises an alert for each (CVE, digest) that a later scan found and
// that keeps the image from a better result, until it is gone or excepted
// (assay.dev/v1alpha1, cluster-scoped). The alert names the workloads that run the image.
type VerdictAlert struct {
	TypeMeta
	Metadata ObjectMeta       `json:"metadata"`
	Spec     VerdictAlertSpec `json:"spec"`
	Status   json.RawMessage  `json:"status,omitempty"`
}

// VerdictAlertSpec is one such rule.
type VerdictAlertSpec struct {
	Description string `json:"description"`       // a template of ${cve} and ${digest}
	Summary     string `json:"summary,omitempty"` // as Description, which it defaults to
	Severity    int    `json:"severity"`          // 1–100
	Period      string `json:"period,omitempty"`  // Go duration; absent: 5m
	// Results are those that the CVE is part of: Fail where absent.
	Results []Result `json:"results,omitempty"`
	// FirstScan includes what the first scan of an image found.
	FirstScan bool `json:"firstScan,omitempty"`
	// Query narrows it, as that of a GlobalAlert does.
	Query         string         `json:"query,omitempty"`
	Substitutions []Substitution `json:"substitutions,omitempty"`
}

// Event is one record of the vulnerability data set: a scan of a (reference,
// digest), a change of its result for another reason, or that it begins or ceases
// to run. As JSON lines it is what `assay alerts --events` reads.
type Event struct {
	Time           string    `json:"time"` // of storing, RFC 3339
	Type           EventType `json:"type,omitempty"`
	Registry       string    `json:"registry"`
	Repository     string    `json:"repository"`
	Tag            string    `json:"tag,omitempty"`
	Digest         string    `json:"digest,omitempty"`
	Image          string    `json:"image"`
	Result         Result    `json:"result"`
	PreviousResult Result    `json:"previous_result,omitempty"`
	Changed        bool      `json:"changed"`
	MaxCVSSScore   *float64  `json:"max_cvss_score,omitempty"` // after exceptions; absent when none
	CVE            []string  `json:"cve"`
	Package        []string  `json:"package"`
	Fixable        bool      `json:"fixable"` // some vulnerability has a fixed version
	KEV            bool      `json:"kev"`     // some vulnerability is known to be exploited
	EPSS           *float64  `json:"epss,omitempty"`
	Source         string    `json:"source,omitempty"`
	Error          string    `json:"error,omitempty"`
	// Instances are those that run; of a PodDetection those that begin, none where the image ceases to run.
	Instances []Instance `json:"instances"`
}

// EventType says what an event is, in Calico's words.
type EventType string

// Types of events.
const (
	ImageDetection EventType = "image_detection" // a scan, also one that failed, or a change of result
	PodDetection   EventType = "pod_detection"   // an image begins to run in a namespace of a cluster, or ceases to run anywhere
)

// Instance is a container that ran the image at the time of an event.
type Instance struct {
	Cluster   string `json:"cluster,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
	Node      string `json:"node,omitempty"`
}

// Alert is one alert that fires.
type Alert struct {
	Name        string `json:"name"`
	Severity    int    `json:"severity"`
	Summary     string `json:"summary"`
	Description string `json:"description"`
	// Key holds the aggregateBy fields; for an alert that fires for every hit,
	// the image, digest and time of the event.
	Key map[string]string `json:"key"`
	// Value is what the metric gave; absent without a metric.
	Value *float64 `json:"value,omitempty"`
	// Count is the number of events behind the alert.
	Count int `json:"count"`
}

// AlertList is the document of `assay alerts -o json`.
type AlertList struct {
	Schema string  `json:"schema"`
	Alerts []Alert `json:"alerts"`
}
