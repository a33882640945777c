package server

import (
	"net/http"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
)

// parameter is one of a query, as the description has it.
type parameter struct {
	name, description string
	takes             values
}

// route is one of the API: what it needs and gives, for serving and describing it.
type route struct {
	pattern string
	roles   []auth.Role
	scopes  auth.Scopes
	summary string
	query   []parameter
	body    any    // a value of the request's type; nil is none
	media   string // of the request; "" is JSON
	status  int    // of a good answer; 0 is 200
	gives   any    // a value of the answer's type; nil is none, text anything but JSON
	long    bool   // it may take longer than other requests
	audit   string // of a route that is not read: why the audit log is not told; "" is that it is
	handle  func(http.ResponseWriter, *http.Request) error
}

// Why routes that are not read tell the audit log nothing.
const (
	reports  = "what is uploaded and reported is data, no decision of a person"
	asks     = "it changes nothing"
	ownViews = "the list is the user's own"
)

// writes says whether a route is there to change something.
func (x route) writes() bool { return !strings.HasPrefix(x.pattern, "GET ") }

// text is an answer that is no JSON.
type text string

var (
	viewer   = []auth.Role{auth.Viewer}
	reader   = []auth.Role{auth.Viewer, auth.Scanner}
	uploader = []auth.Role{auth.Scanner, auth.Node, auth.Editor}
	node     = []auth.Role{auth.Node, auth.Editor}
	webhook  = []auth.Role{auth.Webhook, auth.Editor}
	editor   = []auth.Role{auth.Editor}
	admin    = []auth.Role{auth.Admin}
)

// How routes hold to scopes.
const (
	open       = auth.ScopesOpen
	held       = auth.ScopesHeld
	everything = auth.ScopesRefused
)

var (
	pages  = []parameter{{"limit", "items of a page, 1 to 1000; 100 without", aLimit}, {"after", "next of the page before", anyText}}
	sorted = append([]parameter{{"sort", "an order, with - before it for the other way round", anyText}}, pages...)
	older  = []parameter{{"limit", "items of a page, 1 to 1000; 100 without", aLimit}, {"after", "the id of the last item of the page before", anID}}
)

func with(list []parameter, more ...parameter) []parameter {
	return append(append([]parameter{}, list...), more...)
}

// table are the routes.
func (s *Server) table() []route {
	const at = " /api/v1"
	return []route{
		{pattern: "GET" + at + "/version", roles: reader, scopes: held, summary: "What answers, with which policies, data and database", gives: VersionView{}, handle: s.getVersion},
		{pattern: "GET" + at + "/database", roles: reader, scopes: open, summary: "The vulnerability databases: which is in use, which are kept and where they came from, and how the last update went", gives: api.DatabaseState{}, handle: s.getDatabase},
		{pattern: "GET" + at + "/openapi.json", roles: []auth.Role{auth.Public}, scopes: open, summary: "This description", gives: map[string]any{}, handle: s.getOpenAPI},

		{pattern: "POST" + at + "/scans", roles: uploader, scopes: held, audit: reports, summary: "Store a scan report of `assay scan -o json`, or one scan: all or nothing. 202 where the results are not computed yet, 507 beyond the quota", body: api.ScanReport{}, status: http.StatusCreated, gives: UploadedList{}, handle: s.postScans},
		{pattern: "POST" + at + "/sboms", roles: uploader, scopes: held, audit: reports, summary: "Keep an SBOM (Syft JSON, CycloneDX, SPDX), to be matched now and every day; 507 beyond the quota", query: []parameter{{"image", "the reference that it is of, where it does not say so itself", anyText}, {"digest", "the digest that it is of, where it does not say so itself", anyText}}, body: map[string]any{}, status: http.StatusAccepted, gives: UploadedList{}, handle: s.postSBOM},
		{pattern: "POST" + at + "/scan-requests", roles: webhook, scopes: held, audit: reports, summary: "Have images scanned by the server, from their registries; 409 where it does not scan", body: ScanRequest{}, status: http.StatusAccepted, gives: ScanRequested{}, handle: s.postScanRequest},
		{pattern: "POST" + at + "/claims", roles: node, scopes: held, audit: reports, summary: "Ask which of some images a node is to scan: each is given to one node at a time; 507 beyond the quota", body: ClaimRequest{}, gives: Items[store.Claim]{}, handle: s.postClaims},
		{pattern: "DELETE" + at + "/claims", roles: node, scopes: held, audit: reports, summary: "Give claims back", body: ClaimRequest{}, status: http.StatusNoContent, handle: s.deleteClaims},
		{pattern: "POST" + at + "/instances/changes", roles: node, scopes: held, audit: reports, summary: "Say what changed on a node since its last report, or with no change that it is there; 409 asks for everything by PUT; 507 beyond the quota", body: InstanceChanges{}, status: http.StatusNoContent, handle: s.postInstanceChanges},
		{pattern: "PUT" + at + "/instances", roles: node, scopes: held, audit: reports, summary: "Say what runs on a node, or in a whole cluster; 507 beyond the quota", body: InstanceReport{}, status: http.StatusNoContent, handle: s.putInstances},

		{pattern: "GET" + at + "/images", roles: reader, scopes: held, summary: "Images, a row for each reference and digest. Orders: image, result, score, scanned, instances", query: with(filterParameters, sorted...), gives: store.List[store.Image]{}, handle: s.getImages},
		{pattern: "GET" + at + "/counts", roles: viewer, scopes: held, summary: "Numbers of images by result", query: filterParameters, gives: CountList{}, handle: s.getCounts},
		{pattern: "GET" + at + "/images/{digest}", roles: reader, scopes: held, summary: "All that is known of a digest, with its vulnerabilities and the exceptions that cover them", query: []parameter{{"reference", "the name under which it is judged; else its first", anyText}, {"cluster", "as it is there; else where it is worst", anyText}}, gives: ImageView{}, handle: s.getImage},
		{pattern: "GET" + at + "/images/{digest}/scans", roles: viewer, scopes: held, summary: "The scans of a digest, the newest first", query: older, gives: Items[store.ScanSummary]{}, handle: s.getHistory},
		{pattern: "GET" + at + "/images/{digest}/sbom", roles: viewer, scopes: held, summary: "The SBOM of a digest, as Syft JSON", gives: map[string]any{}, handle: s.getSBOM},
		{pattern: "GET" + at + "/images/{digest}/priorities", roles: viewer, scopes: held, summary: "What to fix first in an image, with reasons", query: with(pages, parameter{"reference", "the name under which it is judged; else all", anyText}), gives: PriorityList{}, handle: s.getImagePriorities},
		{pattern: "PUT" + at + "/images/{digest}/dismissed", roles: editor, scopes: everything, summary: "Hide an image in lists, or show it again", body: Dismissal{}, gives: Dismissal{}, handle: s.putDismissed},
		{pattern: "DELETE" + at + "/images/{digest}", roles: editor, scopes: everything, summary: "Remove all that is known of a digest", status: http.StatusNoContent, handle: s.deleteImage},
		{pattern: "GET" + at + "/priorities", roles: viewer, scopes: held, summary: "What to fix first in the images that fit, with reasons; containers count where the filter says. Newer base images are left out for tokens with a scope", query: with(filterParameters, pages...), gives: PriorityList{}, handle: s.getPriorities},
		{pattern: "GET" + at + "/vulnerabilities", roles: viewer, scopes: everything, summary: "Vulnerabilities that some image has. Orders: score, epss, images, id", query: with(sorted, parameter{"id", "part of the id", anyText}, parameter{"severity", "", anyText}, parameter{"package", "", anyText}, parameter{"kev", "", aFlag}, parameter{"epss", "at least", numbers(0, 1)}, parameter{"score", "at least", numbers(0, 10)}), gives: store.List[store.Vulnerability]{}, handle: s.getVulnerabilities},
		{pattern: "GET" + at + "/vulnerabilities/{id}", roles: viewer, scopes: everything, summary: "A vulnerability, by id or alias, and where it is", gives: VulnerabilityView{}, handle: s.getVulnerability},
		{pattern: "GET" + at + "/new-vulnerabilities", roles: viewer, scopes: everything, summary: "Vulnerabilities that a later scan than the first found in images that run, the highest score first", query: []parameter{{"since", "RFC 3339; a week ago without", aMoment}, {"limit", "1 to 1000; 100 without", aLimit}}, gives: Items[store.NewVulnerability]{}, handle: s.getNewVulnerabilities},
		{pattern: "GET" + at + "/trend", roles: viewer, scopes: everything, summary: "Numbers of images by result, day by day", query: []parameter{{"days", "how many days back, 1 to 400; 30 without", wholeNumbers(1, 400)}}, gives: Items[store.TrendDay]{}, handle: s.getTrend},
		{pattern: "GET" + at + "/views", roles: viewer, scopes: everything, summary: "Addresses of pages that the user keeps", gives: Items[store.SavedView]{}, handle: s.getViews},
		{pattern: "PUT" + at + "/views/{name}", roles: viewer, scopes: everything, audit: ownViews, summary: "Keep the address of a page", body: ViewAddress{}, gives: store.SavedView{}, handle: s.putView},
		{pattern: "DELETE" + at + "/views/{name}", roles: viewer, scopes: everything, audit: ownViews, summary: "Forget the address of a page", status: http.StatusNoContent, handle: s.deleteView},
		{pattern: "GET" + at + "/packages", roles: viewer, scopes: everything, summary: "Packages and how many images have them", query: with(sorted, parameter{"name", "", anyText}, parameter{"version", "", anyText}, parameter{"type", "", anyText}, parameter{"search", "part of the name", anyText}, parameter{"below", "versions of the named package that come before this one, all at once", anyText}, parameter{"digest", "of an image that has it", anyText}), gives: store.List[store.PackageImages]{}, handle: s.getPackages},
		{pattern: "GET" + at + "/instances", roles: viewer, scopes: held, summary: "Containers that run", query: with(filterParameters, sorted...), gives: store.List[store.RunningInstance]{}, handle: s.getInstances},
		{pattern: "GET" + at + "/names", roles: viewer, scopes: held, summary: "The digests that the tags of a name led to", query: []parameter{{"image", "any reference with the name", needed}}, gives: Items[store.NameObservation]{}, handle: s.getNames},
		{pattern: "GET" + at + "/events", roles: viewer, scopes: everything, summary: "Events, the newest first", query: with(sorted, parameter{"image", "", anyText}, parameter{"digest", "", anyText}, parameter{"result", "", oneOf(results...)}, parameter{"type", "", oneOf(string(api.ImageDetection), string(api.PodDetection))}, parameter{"changed", "", aFlag}, parameter{"since", "", aMoment}, parameter{"until", "", aMoment}), gives: store.List[store.StoredEvent]{}, handle: s.getEvents},
		{pattern: "GET" + at + "/clusters", roles: viewer, scopes: everything, summary: "Clusters, with how many containers run there, and when they were heard", gives: Items[store.Cluster]{}, handle: s.getClusters},
		{pattern: "DELETE" + at + "/clusters/{name}", roles: admin, scopes: everything, summary: "Forget a cluster that is gone for good, with all that runs there", status: http.StatusNoContent, handle: s.deleteCluster},
		{pattern: "GET" + at + "/namespaces", roles: viewer, scopes: everything, summary: "Namespaces, with how many containers run there", gives: Items[store.Count]{}, handle: s.getMenu("namespaces")},
		{pattern: "GET" + at + "/registries", roles: viewer, scopes: everything, summary: "Registries, with how many images they have", gives: Items[store.Count]{}, handle: s.getMenu("registries")},

		{pattern: "GET" + at + "/exceptions", roles: viewer, scopes: everything, summary: "Exceptions, of the policies and of the API, those that end first before others", query: with(pages, parameter{"cve", "", anyText}, parameter{"origin", "", oneOf("api", "policies")}, parameter{"in_force", "", aFlag}), gives: store.List[ListedException]{}, handle: s.getExceptions},
		{pattern: "POST" + at + "/exceptions", roles: editor, scopes: everything, summary: "Add an exception. 202 where stored results do not show it yet, or where somebody else must approve it", body: api.VulnerabilityException{}, status: http.StatusCreated, gives: AddedException{}, handle: s.postException},
		{pattern: "GET" + at + "/exceptions/{name}", roles: viewer, scopes: everything, summary: "An exception of the API", gives: api.VulnerabilityException{}, handle: s.getException},
		{pattern: "PUT" + at + "/exceptions/{name}", roles: editor, scopes: everything, summary: "Add an exception, or put it in the place of another", body: api.VulnerabilityException{}, gives: AddedException{}, handle: s.putException},
		{pattern: "DELETE" + at + "/exceptions/{name}", roles: editor, scopes: everything, summary: "Remove an exception", status: http.StatusNoContent, handle: s.deleteException},
		{pattern: "GET" + at + "/exception-requests", roles: viewer, scopes: everything, summary: "Exceptions that wait for a second person, or did, the newest first", query: with(older, parameter{"state", "", oneOf(store.RequestPending, store.RequestApproved, store.RequestRefused)}), gives: Items[store.ExceptionRequest]{}, handle: s.getExceptionRequests},
		{pattern: "POST" + at + "/exception-requests/{id}/approve", roles: editor, scopes: everything, summary: "Put an exception in force that somebody else requested", body: Judgement{}, gives: store.ExceptionRequest{}, handle: s.judgeRequest(store.RequestApproved)},
		{pattern: "POST" + at + "/exception-requests/{id}/refuse", roles: editor, scopes: everything, summary: "Refuse an exception that somebody else requested", body: Judgement{}, gives: store.ExceptionRequest{}, handle: s.judgeRequest(store.RequestRefused)},
		{pattern: "POST" + at + "/imports/exceptions", roles: editor, scopes: everything, summary: "Import exceptions: CSV in Calico's columns, or OpenVEX as JSON; all or nothing", query: []parameter{{"dry_run", "true checks, and changes nothing", aFlag}}, body: text(""), media: "text/csv", gives: Imported{}, handle: s.importExceptions},
		{pattern: "GET" + at + "/exports/exceptions.csv", roles: viewer, scopes: everything, summary: "The exceptions of the API as CSV in Calico's columns and ours", gives: text(""), long: true, handle: s.exportExceptions},
		{pattern: "GET" + at + "/thresholds", roles: viewer, scopes: everything, summary: "The thresholds in force, and where they come from", gives: ThresholdsView{}, handle: s.getThresholds},
		{pattern: "PUT" + at + "/thresholds", roles: editor, scopes: everything, summary: "Set the thresholds, unless the policies do. 202 where stored results do not show it yet", body: api.ThresholdsSpec{}, gives: api.ThresholdsSpec{}, handle: s.putThresholds},
		{pattern: "GET" + at + "/runtime-view", roles: viewer, scopes: everything, summary: "Whether the pages show what runs", gives: RuntimeView{}, handle: s.getRuntimeView},
		{pattern: "PUT" + at + "/runtime-view", roles: editor, scopes: everything, summary: "Show what runs on the pages, or hide it. Nodes report all the same", body: RuntimeView{}, gives: RuntimeView{}, handle: s.putRuntimeView},

		{pattern: "POST" + at + "/impact", roles: viewer, scopes: everything, audit: asks, summary: "What exceptions or thresholds would change, if they were in force: results of images, and recorded decisions", body: ImpactQuestion{}, gives: Impact{}, handle: s.postImpact},
		{pattern: "GET" + at + "/policies", roles: viewer, scopes: everything, summary: "The policies in force, in the order that they apply", query: []parameter{{"modules", "true adds all Rego", aFlag}}, gives: PolicyList{}, handle: s.getPolicies},
		{pattern: "POST" + at + "/policies/test", roles: editor, scopes: everything, audit: asks, summary: "Run the tests (*_test.rego) that came with the policies in force", gives: PolicyTests{}, handle: s.postPolicyTests},
		{pattern: "GET" + at + "/policies/{name}", roles: viewer, scopes: everything, summary: "A policy with its Rego and its last decisions", gives: PolicyView{}, handle: s.getPolicy},
		{pattern: "POST" + at + "/classify", roles: reader, scopes: held, audit: asks, summary: "What the engine says of an image now, and why", query: []parameter{{"cluster", "the cluster to ask for; else what all clusters share counts", anyText}}, body: Question{}, gives: engine.Classification{}, handle: s.postClassify},
		{pattern: "POST" + at + "/admit", roles: viewer, scopes: held, audit: asks, summary: "Decide an AdmissionReview as the webhook would", query: []parameter{{"cluster", "the cluster to ask for; else what all clusters share counts", anyText}}, body: map[string]any{}, gives: api.Answer{}, handle: s.postAdmit},
		{pattern: "POST" + at + "/explain", roles: viewer, scopes: held, audit: asks, summary: "Why an AdmissionReview is decided as it is, and what would admit it", query: []parameter{{"cluster", "the cluster to ask for; else what all clusters share counts", anyText}}, body: map[string]any{}, gives: api.Explanation{}, handle: s.postExplain},
		{pattern: "GET" + at + "/alerts", roles: viewer, scopes: everything, summary: "Alerts, the newest first", query: with(older, parameter{"firing", "true leaves out those that ended", aFlag}, parameter{"rule", "", anyText}), gives: Items[store.Episode]{}, handle: s.getAlerts},
		{pattern: "GET" + at + "/alerts/rules", roles: viewer, scopes: everything, summary: "Alert rules, and when they were evaluated", gives: Items[AlertRow]{}, handle: s.getAlertRules},
		{pattern: "POST" + at + "/alerts/test", roles: viewer, scopes: everything, audit: asks, summary: "What a GlobalAlert would say of the events that are kept, without telling anybody", body: AlertQuestion{}, gives: AlertAnswer{}, handle: s.postAlertTest},
		{pattern: "GET" + at + "/alerts/deliveries", roles: viewer, scopes: everything, summary: "Notifications that wait or were given up", query: pages[:1], gives: Items[store.DeliveryStatus]{}, handle: s.getDeliveries},
		{pattern: "GET" + at + "/decisions", roles: viewer, scopes: held, summary: "Recorded decisions, the newest first", query: with(older, parameter{"cluster", "", anyText}, parameter{"namespace", "", anyText}, parameter{"kind", "", anyText}, parameter{"name", "", anyText}, parameter{"policy", "one that decided", anyText}, parameter{"allowed", "", aFlag}), gives: Items[store.StoredDecision]{}, handle: s.getDecisions},
		{pattern: "POST" + at + "/decisions", roles: webhook, scopes: held, audit: reports, summary: "Keep records of decisions; one whose uid is known changes nothing", body: Items[api.AdmissionRecord]{}, status: http.StatusNoContent, handle: s.postDecisions},

		{pattern: "GET" + at + "/downloads/assay", roles: reader, scopes: open, summary: "The scanner: the program that this server runs, for its own platform", gives: text(""), long: true, handle: s.getProgram},
		{pattern: "GET" + at + "/tokens", roles: admin, scopes: everything, summary: "Tokens, never their text, with what they hold and may hold", gives: Items[ListedToken]{}, handle: s.getTokens},
		{pattern: "POST" + at + "/tokens", roles: admin, scopes: everything, summary: "Make a token, shown this once", body: NewToken{}, status: http.StatusCreated, gives: MadeToken{}, handle: s.postToken},
		{pattern: "DELETE" + at + "/tokens/{id}", roles: admin, scopes: everything, summary: "End a token", query: []parameter{{"withdraw", "true removes all that it handed in: evidence, what it said of tags and containers, claims", aFlag}}, status: http.StatusNoContent, handle: s.deleteToken},
		{pattern: "GET" + at + "/jobs", roles: viewer, scopes: everything, summary: "Background jobs, the newest first", query: []parameter{{"kind", "", oneOf(jobs.Kinds()...)}, {"state", "", oneOf(jobs.States()...)}, {"limit", "", aLimit}}, gives: Items[jobs.Job]{}, handle: s.getJobs},
		{pattern: "POST" + at + "/jobs/{id}/retry", roles: editor, scopes: everything, summary: "Make a job due now", gives: jobs.Job{}, handle: s.changeJob("retry", Jobs.Retry)},
		{pattern: "POST" + at + "/jobs/{id}/cancel", roles: editor, scopes: everything, summary: "End a job", gives: jobs.Job{}, handle: s.changeJob("cancel", Jobs.Cancel)},

		{pattern: "GET" + at + "/exports/images.csv", roles: viewer, scopes: held, summary: "A row for each image, or with pods for each container that runs one", query: with(filterParameters, parameter{"pods", "true adds the containers that run it", aFlag}), gives: text(""), long: true, handle: s.exportImages},
		{pattern: "GET" + at + "/exports/vulnerabilities.csv", roles: viewer, scopes: held, summary: "A row for each vulnerability of each image", query: filterParameters, gives: text(""), long: true, handle: s.exportVulnerabilities},
		{pattern: "GET" + at + "/exports/images.json", roles: viewer, scopes: held, summary: "A scan report of all images, as `assay scan -o json` gives", query: filterParameters, gives: api.ScanReport{}, long: true, handle: s.exportJSON},
		{pattern: "GET" + at + "/audit", roles: admin, scopes: everything, summary: "Who changed what, the newest first", query: with(auditParameters, older...), gives: Items[store.AuditEntry]{}, handle: s.getAudit},
		{pattern: "GET" + at + "/exports/audit.csv", roles: admin, scopes: everything, summary: "The audit log as CSV", query: auditParameters, gives: text(""), long: true, handle: s.exportAudit},
		{pattern: "GET" + at + "/exports/audit.json", roles: admin, scopes: everything, summary: "The audit log as JSON", query: auditParameters, gives: Items[store.AuditEntry]{}, long: true, handle: s.exportAuditJSON},
		{pattern: "GET" + at + "/stream", roles: viewer, scopes: everything, summary: "Changes as server-sent events; Last-Event-ID goes on from there", gives: text(""), long: true, handle: s.getStream},
	}
}
