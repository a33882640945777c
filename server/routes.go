package server

import (
	"net/http"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
)

// parameter is one of a query, as the description has it.
type parameter struct{ name, description string }

// route is one of the API: what it needs and gives, for serving and describing it.
type route struct {
	pattern string
	roles   []auth.Role
	summary string
	query   []parameter
	body    any    // a value of the request's type; nil is none
	media   string // of the request; "" is JSON
	status  int    // of a good answer; 0 is 200
	gives   any    // a value of the answer's type; nil is none, text anything but JSON
	scoped  bool   // it holds to the scopes of identities
	long    bool   // it may take longer than other requests
	handle  func(http.ResponseWriter, *http.Request) error
}

// text is an answer that is no JSON.
type text string

var (
	viewer  = []auth.Role{auth.Viewer}
	reader  = []auth.Role{auth.Viewer, auth.Scanner}
	scanner = []auth.Role{auth.Scanner, auth.Editor}
	editor  = []auth.Role{auth.Editor}
	admin   = []auth.Role{auth.Admin}
)

var (
	pages  = []parameter{{"limit", "items of a page, 1 to 1000; 100 without"}, {"after", "next of the page before"}}
	sorted = append([]parameter{{"sort", "an order, with - before it for the other way round"}}, pages...)
	older  = []parameter{{"limit", "items of a page, 1 to 1000; 100 without"}, {"before", "the id of the last item of the page before"}}
)

func with(list []parameter, more ...parameter) []parameter {
	return append(append([]parameter{}, list...), more...)
}

// table are the routes.
func (s *Server) table() []route {
	const at = " /api/v1"
	return []route{
		{pattern: "GET" + at + "/version", roles: reader, summary: "What answers, with which policies, data and database", gives: VersionView{}, scoped: true, handle: s.getVersion},
		{pattern: "GET" + at + "/database", roles: reader, summary: "The vulnerability databases: which is in use, which are kept and where they came from, and how the last update went", gives: api.DatabaseState{}, scoped: true, handle: s.getDatabase},
		{pattern: "GET" + at + "/openapi.json", roles: []auth.Role{auth.Public}, summary: "This description", gives: map[string]any{}, scoped: true, handle: s.getOpenAPI},

		{pattern: "POST" + at + "/scans", roles: scanner, summary: "Store a scan report of `assay scan -o json`, or one scan: all or nothing. 202 where the results are not computed yet", body: api.ScanReport{}, status: http.StatusCreated, gives: UploadedList{}, scoped: true, handle: s.postScans},
		{pattern: "POST" + at + "/sboms", roles: scanner, summary: "Keep an SBOM (Syft JSON, CycloneDX, SPDX), to be matched now and every day", query: []parameter{{"image", "the reference that it is of, where it does not say so itself"}, {"digest", "the digest that it is of, where it does not say so itself"}}, body: map[string]any{}, status: http.StatusAccepted, gives: UploadedList{}, scoped: true, handle: s.postSBOM},
		{pattern: "POST" + at + "/scan-requests", roles: scanner, summary: "Have images scanned by the server, from their registries; 409 where it does not scan", body: ScanRequest{}, status: http.StatusAccepted, gives: ScanRequested{}, scoped: true, handle: s.postScanRequest},
		{pattern: "POST" + at + "/claims", roles: scanner, summary: "Ask which of some images a node is to scan: each is given to one node at a time", body: ClaimRequest{}, gives: Items[store.Claim]{}, scoped: true, handle: s.postClaims},
		{pattern: "DELETE" + at + "/claims", roles: scanner, summary: "Give claims back", body: ClaimRequest{}, status: http.StatusNoContent, scoped: true, handle: s.deleteClaims},
		{pattern: "POST" + at + "/instances/changes", roles: scanner, summary: "Say what changed on a node since its last report, or with no change that it is there; 409 asks for everything by PUT", body: InstanceChanges{}, status: http.StatusNoContent, scoped: true, handle: s.postInstanceChanges},
		{pattern: "PUT" + at + "/instances", roles: scanner, summary: "Say what runs on a node, or in a whole cluster", body: InstanceReport{}, status: http.StatusNoContent, scoped: true, handle: s.putInstances},

		{pattern: "GET" + at + "/images", roles: reader, summary: "Images, a row for each reference and digest. Orders: image, result, score, scanned, instances", query: with(filterParameters, sorted...), gives: store.List[store.Image]{}, scoped: true, handle: s.getImages},
		{pattern: "GET" + at + "/counts", roles: viewer, summary: "Numbers of images by result", query: filterParameters, gives: CountList{}, scoped: true, handle: s.getCounts},
		{pattern: "GET" + at + "/images/{digest}", roles: reader, summary: "All that is known of a digest, with its vulnerabilities and the exceptions that cover them", query: []parameter{{"reference", "the name under which it is judged; else its first"}}, gives: ImageView{}, scoped: true, handle: s.getImage},
		{pattern: "GET" + at + "/images/{digest}/scans", roles: viewer, summary: "The scans of a digest, the newest first", query: older, gives: Items[store.ScanSummary]{}, scoped: true, handle: s.getHistory},
		{pattern: "GET" + at + "/images/{digest}/sbom", roles: viewer, summary: "The SBOM of a digest, as Syft JSON", gives: map[string]any{}, scoped: true, handle: s.getSBOM},
		{pattern: "GET" + at + "/images/{digest}/priorities", roles: viewer, summary: "What to fix first in an image, with reasons", query: with(pages, parameter{"reference", "the name under which it is judged; else all"}), gives: PriorityList{}, scoped: true, handle: s.getImagePriorities},
		{pattern: "PUT" + at + "/images/{digest}/dismissed", roles: editor, summary: "Hide an image in lists, or show it again", body: Dismissal{}, gives: Dismissal{}, handle: s.putDismissed},
		{pattern: "DELETE" + at + "/images/{digest}", roles: editor, summary: "Remove all that is known of a digest", status: http.StatusNoContent, handle: s.deleteImage},
		{pattern: "GET" + at + "/priorities", roles: viewer, summary: "What to fix first in the images that fit, with reasons; containers count where the filter says. Newer base images are left out for tokens with a scope", query: with(filterParameters, pages...), gives: PriorityList{}, scoped: true, handle: s.getPriorities},
		{pattern: "GET" + at + "/vulnerabilities", roles: viewer, summary: "Vulnerabilities that some image has. Orders: score, epss, images, id", query: with(sorted, parameter{"id", "part of the id"}, parameter{"severity", ""}, parameter{"package", ""}, parameter{"kev", ""}, parameter{"epss", "at least"}, parameter{"score", "at least"}), gives: store.List[store.Vulnerability]{}, handle: s.getVulnerabilities},
		{pattern: "GET" + at + "/vulnerabilities/{id}", roles: viewer, summary: "A vulnerability, by id or alias, and where it is", gives: VulnerabilityView{}, handle: s.getVulnerability},
		{pattern: "GET" + at + "/new-vulnerabilities", roles: viewer, summary: "Vulnerabilities that a later scan than the first found in images that run, the highest score first", query: []parameter{{"since", "RFC 3339; a week ago without"}, {"limit", "1 to 1000; 100 without"}}, gives: Items[store.NewVulnerability]{}, handle: s.getNewVulnerabilities},
		{pattern: "GET" + at + "/trend", roles: viewer, summary: "Numbers of images by result, day by day", query: []parameter{{"days", "how many days back, 1 to 400; 30 without"}}, gives: Items[store.TrendDay]{}, handle: s.getTrend},
		{pattern: "GET" + at + "/views", roles: viewer, summary: "Addresses of pages that the user keeps", gives: Items[store.SavedView]{}, handle: s.getViews},
		{pattern: "PUT" + at + "/views/{name}", roles: viewer, summary: "Keep the address of a page", body: store.SavedView{}, gives: store.SavedView{}, handle: s.putView},
		{pattern: "DELETE" + at + "/views/{name}", roles: viewer, summary: "Forget the address of a page", status: http.StatusNoContent, handle: s.deleteView},
		{pattern: "GET" + at + "/packages", roles: viewer, summary: "Packages and how many images have them", query: with(sorted, parameter{"name", ""}, parameter{"version", ""}, parameter{"type", ""}, parameter{"search", "part of the name"}, parameter{"below", "versions of the named package that come before this one, all at once"}, parameter{"digest", "of an image that has it"}), gives: store.List[store.PackageImages]{}, handle: s.getPackages},
		{pattern: "GET" + at + "/instances", roles: viewer, summary: "Containers that run", query: with(filterParameters, sorted...), gives: store.List[store.RunningInstance]{}, scoped: true, handle: s.getInstances},
		{pattern: "GET" + at + "/names", roles: viewer, summary: "The digests that the tags of a name led to", query: []parameter{{"image", "any reference with the name"}}, gives: Items[store.NameObservation]{}, scoped: true, handle: s.getNames},
		{pattern: "GET" + at + "/events", roles: viewer, summary: "Events, the newest first", query: with(sorted, parameter{"image", ""}, parameter{"digest", ""}, parameter{"result", ""}, parameter{"changed", ""}, parameter{"since", "RFC 3339"}, parameter{"until", "RFC 3339"}), gives: store.List[store.StoredEvent]{}, handle: s.getEvents},
		{pattern: "GET" + at + "/clusters", roles: viewer, summary: "Clusters, with how many containers run there, and when they were heard", gives: Items[store.Cluster]{}, handle: s.getClusters},
		{pattern: "DELETE" + at + "/clusters/{name}", roles: admin, summary: "Forget a cluster that is gone for good, with all that runs there", status: http.StatusNoContent, handle: s.deleteCluster},
		{pattern: "GET" + at + "/namespaces", roles: viewer, summary: "Namespaces, with how many containers run there", gives: Items[store.Count]{}, handle: s.getMenu("namespaces")},
		{pattern: "GET" + at + "/registries", roles: viewer, summary: "Registries, with how many images they have", gives: Items[store.Count]{}, handle: s.getMenu("registries")},

		{pattern: "GET" + at + "/exceptions", roles: viewer, summary: "Exceptions, of the policies and of the API", query: []parameter{{"cve", ""}, {"origin", "api or policies"}, {"inForce", "true or false"}}, gives: Items[ListedException]{}, handle: s.getExceptions},
		{pattern: "POST" + at + "/exceptions", roles: editor, summary: "Add an exception. 202 where stored results do not show it yet", body: api.VulnerabilityException{}, status: http.StatusCreated, gives: api.VulnerabilityException{}, handle: s.postException},
		{pattern: "GET" + at + "/exceptions/{name}", roles: viewer, summary: "An exception of the API", gives: api.VulnerabilityException{}, handle: s.getException},
		{pattern: "PUT" + at + "/exceptions/{name}", roles: editor, summary: "Add an exception, or put it in the place of another", body: api.VulnerabilityException{}, gives: api.VulnerabilityException{}, handle: s.putException},
		{pattern: "DELETE" + at + "/exceptions/{name}", roles: editor, summary: "Remove an exception", status: http.StatusNoContent, handle: s.deleteException},
		{pattern: "POST" + at + "/imports/exceptions", roles: editor, summary: "Import exceptions: CSV in Calico's columns, or OpenVEX as JSON; all or nothing", query: []parameter{{"dryRun", "true checks, and changes nothing"}}, body: text(""), media: "text/csv", gives: Imported{}, handle: s.importExceptions},
		{pattern: "GET" + at + "/exports/exceptions.csv", roles: viewer, summary: "The exceptions of the API as CSV in Calico's columns and ours", gives: text(""), long: true, handle: s.exportExceptions},
		{pattern: "GET" + at + "/thresholds", roles: viewer, summary: "The thresholds in force, and where they come from", gives: ThresholdsView{}, handle: s.getThresholds},
		{pattern: "PUT" + at + "/thresholds", roles: editor, summary: "Set the thresholds, unless the policies do. 202 where stored results do not show it yet", body: api.ThresholdsSpec{}, gives: api.ThresholdsSpec{}, handle: s.putThresholds},
		{pattern: "GET" + at + "/runtime-view", roles: viewer, summary: "Whether the pages show what runs", gives: RuntimeView{}, handle: s.getRuntimeView},
		{pattern: "PUT" + at + "/runtime-view", roles: editor, summary: "Show what runs on the pages, or hide it. Nodes report all the same", body: RuntimeView{}, gives: RuntimeView{}, handle: s.putRuntimeView},

		{pattern: "POST" + at + "/impact", roles: viewer, summary: "What exceptions or thresholds would change, if they were in force: results of images, and recorded decisions", body: ImpactQuestion{}, gives: Impact{}, handle: s.postImpact},
		{pattern: "GET" + at + "/policies", roles: viewer, summary: "The policies in force, in the order that they apply", query: []parameter{{"modules", "true adds all Rego"}}, gives: PolicyList{}, handle: s.getPolicies},
		{pattern: "POST" + at + "/policies/test", roles: editor, summary: "Run the tests (*_test.rego) that came with the policies in force", gives: PolicyTests{}, handle: s.postPolicyTests},
		{pattern: "GET" + at + "/policies/{name}", roles: viewer, summary: "A policy with its Rego and its last decisions", gives: PolicyView{}, handle: s.getPolicy},
		{pattern: "POST" + at + "/classify", roles: reader, summary: "What the engine says of an image now, and why", body: Question{}, gives: engine.Classification{}, scoped: true, handle: s.postClassify},
		{pattern: "POST" + at + "/admit", roles: viewer, summary: "Decide an AdmissionReview as the webhook would", body: map[string]any{}, gives: api.Decision{}, handle: s.postAdmit},
		{pattern: "POST" + at + "/explain", roles: viewer, summary: "Why an AdmissionReview is decided as it is, and what would admit it", body: map[string]any{}, gives: api.Explanation{}, handle: s.postExplain},
		{pattern: "GET" + at + "/alerts", roles: viewer, summary: "Alerts, the newest first", query: with(older, parameter{"firing", "true leaves out those that ended"}, parameter{"rule", ""}), gives: Items[store.Episode]{}, handle: s.getAlerts},
		{pattern: "GET" + at + "/alerts/rules", roles: viewer, summary: "Alert rules, and when they were evaluated", gives: Items[AlertRow]{}, handle: s.getAlertRules},
		{pattern: "POST" + at + "/alerts/test", roles: viewer, summary: "What a GlobalAlert would say of the events that are kept, without telling anybody", body: AlertQuestion{}, gives: AlertAnswer{}, handle: s.postAlertTest},
		{pattern: "GET" + at + "/alerts/deliveries", roles: viewer, summary: "Notifications that wait or were given up", query: pages[:1], gives: Items[store.DeliveryStatus]{}, handle: s.getDeliveries},
		{pattern: "GET" + at + "/decisions", roles: viewer, summary: "Recorded decisions, the newest first", query: with(older, parameter{"cluster", ""}, parameter{"namespace", ""}, parameter{"kind", ""}, parameter{"name", ""}, parameter{"policy", "one that decided"}, parameter{"allowed", ""}), gives: Items[store.StoredDecision]{}, scoped: true, handle: s.getDecisions},
		{pattern: "POST" + at + "/decisions", roles: scanner, summary: "Keep records of decisions; one whose uid is known changes nothing", body: Items[api.AdmissionRecord]{}, status: http.StatusNoContent, scoped: true, handle: s.postDecisions},

		{pattern: "GET" + at + "/downloads/assay", roles: reader, summary: "The scanner: the program that this server runs, for its own platform", gives: text(""), scoped: true, long: true, handle: s.getProgram},
		{pattern: "GET" + at + "/tokens", roles: admin, summary: "Tokens, never their text", gives: Items[store.Token]{}, handle: s.getTokens},
		{pattern: "POST" + at + "/tokens", roles: admin, summary: "Make a token, shown this once", body: NewToken{}, status: http.StatusCreated, gives: MadeToken{}, handle: s.postToken},
		{pattern: "DELETE" + at + "/tokens/{id}", roles: admin, summary: "End a token", status: http.StatusNoContent, handle: s.deleteToken},
		{pattern: "GET" + at + "/jobs", roles: viewer, summary: "Background jobs, the newest first", query: []parameter{{"kind", "match, sweep, alerts, deliver, retain or database"}, {"state", ""}, {"limit", ""}}, gives: Items[jobs.Job]{}, handle: s.getJobs},
		{pattern: "POST" + at + "/jobs/{id}/retry", roles: editor, summary: "Make a job due now", gives: jobs.Job{}, handle: s.changeJob(Jobs.Retry)},
		{pattern: "POST" + at + "/jobs/{id}/cancel", roles: editor, summary: "End a job", gives: jobs.Job{}, handle: s.changeJob(Jobs.Cancel)},

		{pattern: "GET" + at + "/exports/images.csv", roles: viewer, summary: "A row for each image, or with pods for each container that runs one", query: with(filterParameters, parameter{"pods", "true adds the containers that run it"}), gives: text(""), scoped: true, long: true, handle: s.exportImages},
		{pattern: "GET" + at + "/exports/vulnerabilities.csv", roles: viewer, summary: "A row for each vulnerability of each image", query: filterParameters, gives: text(""), scoped: true, long: true, handle: s.exportVulnerabilities},
		{pattern: "GET" + at + "/exports/images.json", roles: viewer, summary: "A scan report of all images, as `assay scan -o json` gives", query: filterParameters, gives: api.ScanReport{}, scoped: true, long: true, handle: s.exportJSON},
		{pattern: "GET" + at + "/stream", roles: viewer, summary: "Changes as server-sent events; Last-Event-ID goes on from there", gives: text(""), long: true, handle: s.getStream},
	}
}
