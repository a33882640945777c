package vulndb

import (
	"cmp"
	"slices"
	"strings"
)

// schemas of the records that Grype's builder reads, after those of vunnel.
const (
	githubSchema = "schema/vulnerability/github-security-advisory/schema-1.0.2.json"
	osSchema     = "schema/vulnerability/os/schema-1.0.3.json"
	nvdSchema    = "schema/vulnerability/nvd/schema-1.0.0.json"
	epssSchema   = "schema/vulnerability/epss/schema-1.0.0.json"
	kevSchema    = "schema/vulnerability/known-exploited/schema-1.0.0.json"
)

// record is one input of Grype's builder.
type record struct {
	Schema     string `json:"schema"`
	Identifier string `json:"identifier"`
	Item       any    `json:"item"`
}

type object map[string]any

// recordsOf makes the records of each provider, in a fixed order.
func recordsOf(advisories []*advisory, day string) map[string][]record {
	out := map[string][]record{}
	add := func(provider, schema, id string, item any) {
		out[provider] = append(out[provider], record{Schema: schema, Identifier: provider + "/" + id, Item: item})
	}
	for _, a := range advisories {
		byNamespace := map[string][]affected{}
		for _, af := range a.affected {
			key := af.namespace
			if !af.os() {
				key = "github"
			}
			byNamespace[key] = append(byNamespace[key], af)
		}
		for _, ns := range sortedKeys(byNamespace) {
			if ns == "github" {
				add("github", githubSchema, a.id, a.github(byNamespace[ns]))
				continue
			}
			add(byNamespace[ns][0].provider(), osSchema, ns+"/"+a.id, a.os(ns, byNamespace[ns]))
		}
	}
	cves := mergeCVEs(advisories)
	// Grype's EPSS has one date for all: the newest.
	epssDay := ""
	for _, c := range cves {
		if c.epss != nil {
			epssDay = max(epssDay, c.epss.Date)
		}
	}
	for _, c := range cves {
		add("nvd", nvdSchema, c.id, c.nvd())
		if c.epss != nil {
			add("epss", epssSchema, c.id, object{
				"cve": c.id, "epss": *c.epss.Probability, "percentile": c.epss.Percentile, "date": cmp.Or(epssDay, day),
			})
		}
		if k := c.kev; k != nil {
			add("kev", kevSchema, c.id, object{
				"cveID": c.id, "dateAdded": k.DateAdded, "dueDate": k.DueDate,
				"vendorProject": k.Vendor, "product": k.Product, "knownRansomwareCampaignUse": k.Ransomware,
			})
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// spans are the intervals to write: Grype drops an empty constraint beside others.
func (a affected) spans() []interval {
	for _, in := range a.intervals {
		if in.constraint == "" {
			return []interval{in}
		}
	}
	return a.intervals
}

func cvssVersion(vector string) string {
	return strings.TrimPrefix(vector[:strings.IndexByte(vector, '/')], "CVSS:")
}

// github is the record of an advisory about packages of languages.
func (a *advisory) github(list []affected) object {
	fixedIn := []object{}
	for _, af := range list {
		_, ecosystem, _ := strings.Cut(af.namespace, ":")
		for _, in := range af.spans() {
			f := object{
				"ecosystem": ecosystem, "name": af.name, "namespace": af.namespace,
				"identifier": cmp.Or(in.fixed, "None"), "range": in.constraint,
			}
			if in.fixed != "" && af.available != "" {
				f["available"] = object{"date": af.available, "kind": "advisory"}
			}
			fixedIn = append(fixedIn, f)
		}
	}
	severities := []object{}
	for _, v := range a.vectors {
		severities = append(severities, object{"vector": v, "version": cvssVersion(v)})
	}
	references := []object{}
	url := ""
	for i, u := range a.urls {
		if i == 0 {
			url = u
			continue
		}
		references = append(references, object{"url": u})
	}
	return object{"Advisory": object{
		"ghsaId": a.id, "CVE": a.aliases, "Severity": a.severity, "Summary": a.text, "url": url,
		"published": a.published, "updated": a.modified, "references": references,
		"cvss_severities": severities, "FixedIn": fixedIn,
	}}
}

// os is the record of an advisory about packages of one release of a distribution.
func (a *advisory) os(namespace string, list []affected) object {
	fixedIn := []object{}
	for _, af := range list {
		format := "dpkg"
		if af.provider() == "alpine" {
			format = "apk"
		}
		for _, in := range af.spans() {
			f := object{
				"Name": af.name, "NamespaceName": namespace, "VersionFormat": format,
				"Version": cmp.Or(in.fixed, "None"), "VulnerableRange": in.constraint,
			}
			if in.fixed != "" && af.available != "" {
				f["Available"] = object{"Date": af.available, "Kind": "advisory"}
			}
			fixedIn = append(fixedIn, f)
		}
	}
	cvss := []object{}
	for _, v := range a.vectors {
		cvss = append(cvss, object{"vector_string": v, "version": cvssVersion(v), "status": "verified"})
	}
	aliases := []object{}
	for _, id := range a.aliases {
		aliases = append(aliases, object{"Name": id})
	}
	link := ""
	if len(a.urls) > 0 {
		link = a.urls[0]
	}
	return object{"Vulnerability": object{
		"Name": a.id, "NamespaceName": namespace, "Severity": a.severity, "Description": a.text, "Link": link,
		"CVSS": cvss, "FixedIn": fixedIn,
		"Metadata": object{"Issued": a.published, "Updated": a.modified, "CVE": aliases},
	}}
}

// cve is what all advisories together say of a CVE.
type cve struct {
	id, text            string
	published, modified string
	scores              []score
	epss                *osvEPSS
	kev                 *osvKEV
}

// score is a CVSS vector and who gave it.
type score struct{ vector, source string }

// mergeCVEs gathers the CVEs of the advisories, in order. An advisory of
// several CVEs has one score: it says nothing of each, so none gets it unless
// the advisory is about that one alone.
func mergeCVEs(advisories []*advisory) []*cve {
	byID := map[string]*cve{}
	for _, a := range advisories {
		for _, id := range a.cves {
			c := byID[id]
			if c == nil {
				c = &cve{id: id}
				byID[id] = c
			}
			c.text = cmp.Or(c.text, a.text)
			if c.published == "" || a.published != "" && a.published < c.published {
				c.published = a.published
			}
			c.modified = max(c.modified, a.modified)
			for _, v := range a.vectors {
				if len(a.cves) == 1 || strings.EqualFold(a.id, id) {
					c.add(score{v, a.source})
				}
			}
			if e := a.epss; e != nil && (c.epss == nil || newer(e, c.epss)) {
				c.epss = e
			}
			if a.kev != nil && (c.kev == nil || c.kev.DateAdded == "" || a.kev.DateAdded != "" && a.kev.DateAdded < c.kev.DateAdded) {
				c.kev = a.kev
			}
		}
	}
	out := make([]*cve, 0, len(byID))
	for _, id := range sortedKeys(byID) {
		out = append(out, byID[id])
	}
	return out
}

func newer(a, b *osvEPSS) bool {
	return cmp.Or(cmp.Compare(a.Date, b.Date), cmp.Compare(*a.Probability, *b.Probability)) > 0
}

// add notes a score once, by its source where one is known.
func (c *cve) add(s score) {
	for i, have := range c.scores {
		if have.vector != s.vector {
			continue
		}
		if have == s || s.source == "" {
			return
		}
		if have.source == "" {
			c.scores[i].source = s.source
			return
		}
	}
	c.scores = append(c.scores, s)
}

// nvd is the record of a CVE. It names no CPEs: it only gives the scores, those
// of NVD itself as primary ones.
func (c *cve) nvd() object {
	metrics := object{}
	for _, key := range []string{"3.0", "3.1"} {
		list := []object{}
		for _, s := range c.scores {
			if cvssVersion(s.vector) != key {
				continue
			}
			kind := "Secondary"
			if s.source == "nvd@nist.gov" {
				kind = "Primary"
			}
			base, _ := scoreV3(s.vector)
			list = append(list, object{"source": s.source, "type": kind, "cvssData": object{
				"version": key, "vectorString": s.vector, "baseScore": base, "baseSeverity": strings.ToUpper(severityOf(base)),
			}})
		}
		if len(list) > 0 {
			metrics["cvssMetricV"+strings.ReplaceAll(key, ".", "")] = list
		}
	}
	return object{"cve": object{
		"id": c.id, "published": c.published, "lastModified": c.modified, "vulnStatus": "Analyzed",
		"descriptions": []object{{"lang": "en", "value": c.text}},
		"references":   []object{}, "metrics": metrics,
	}}
}
