package api

// Priorities is the document of `assay priorities -o json`.
type Priorities struct {
	Schema string `json:"schema"`
	// Images is how many were looked at.
	Images int `json:"images"`
	// Running says that containers are known; without, no place says what runs.
	Running bool     `json:"running"`
	Items   []Action `json:"items"`
}

// Tier is the first thing that the order of actions goes by: the lowest is first.
type Tier int

// Tiers. What they say is true of at least one vulnerability that the action removes, in
// an image that it is for.
const (
	TierExploitedRunning Tier = iota + 1 // listed in KEV, in an image that runs
	TierLikelyRunning                    // EPSS of LikelyEPSS or more, in an image that runs
	TierExploited                        // listed in KEV
	TierLikely                           // EPSS of LikelyEPSS or more
	TierDecides                          // it makes an image Fail
	TierRest
)

// LikelyEPSS is the probability from which a vulnerability counts as likely to be exploited.
const LikelyEPSS = 0.1

// Kinds of actions.
const (
	ActionUpgrade = "upgrade" // a package
	ActionRebase  = "rebase"  // rebuild on a newer base image
)

// Action is one thing to do, with what it does to the images that it is for. Numbers leave
// out what exceptions cover.
type Action struct {
	// ID is the same for the same thing to do, over time and everywhere.
	ID      string   `json:"id"`
	Kind    string   `json:"kind"`
	Summary string   `json:"summary"`
	Tier    Tier     `json:"tier"`
	Reasons []string `json:"reasons"`

	Upgrade *PackageUpgrade `json:"upgrade,omitempty"`
	Rebase  *Rebase         `json:"rebase,omitempty"`

	// Removes are the vulnerabilities that it removes from at least one image: those known
	// to be exploited first, then by EPSS and score, at most MaxRemoved.
	Removes []RemovedVulnerability `json:"removes"`
	// Vulnerabilities is how many they are, Exploited how many of them KEV lists, Findings
	// how often they are removed, counted for each image.
	Vulnerabilities int `json:"vulnerabilities"`
	Exploited       int `json:"exploited"`
	Findings        int `json:"findings"`
	// EPSS and CVSS are the highest of them.
	EPSS *float64 `json:"epss,omitempty"`
	CVSS *float64 `json:"cvss,omitempty"`

	// Images is how many it is for, RunningImages how many of them run; Containers and
	// Clusters where.
	Images        int      `json:"images"`
	RunningImages int      `json:"running_images"`
	Containers    int      `json:"containers"`
	Clusters      []string `json:"clusters"`
	// Unfailed is how many images it turns from Fail to a better result, by itself.
	Unfailed int `json:"unfailed"`
	// FromBase is in how many images the package comes from the base image.
	FromBase int `json:"from_base"`
	// Weight and RunningWeight are the sums over what is removed of EPSS (1 where KEV lists
	// it) times a tenth of the CVSS score: for each image, and for each container.
	Weight        float64 `json:"weight"`
	RunningWeight float64 `json:"running_weight"`
	// Where are the images, those that run in most containers first, at most MaxPlaces.
	Where []Place `json:"where"`
}

// Bounds of the lists in an [Action].
const (
	MaxRemoved = 20
	MaxPlaces  = 20
)

// PackageUpgrade says what package to upgrade, and to what.
type PackageUpgrade struct {
	Package string `json:"package"`
	Type    string `json:"type"`
	// Distro is that of the images, such as "debian 12", for its own packages.
	Distro string `json:"distro,omitempty"`
	// From are the versions that are there, the lowest first.
	From []string `json:"from"`
	// To is the lowest version that fixes all that is fixed.
	To string `json:"to"`
}

// Rebase says on which newer base image to build.
type Rebase struct {
	Name string `json:"name"`
	// From are the digests of the base that the images have now, To that of the newest scan.
	From []string `json:"from"`
	To   string   `json:"to"`
	// Share is the part, 0 to 1, of all that is found in the images that it removes.
	Share float64 `json:"share"`
	// Adds is how many findings the newer base brings that the images do not have.
	Adds          int `json:"adds"`
	AddsExploited int `json:"adds_exploited"`
}

// RemovedVulnerability is one that an [Action] removes.
type RemovedVulnerability struct {
	ID   string   `json:"id"`
	CVSS *float64 `json:"cvss,omitempty"`
	EPSS *float64 `json:"epss,omitempty"`
	KEV  bool     `json:"kev"`
}

// Place is an image that an [Action] is for.
type Place struct {
	Image      string `json:"image"`
	Digest     string `json:"digest,omitempty"`
	Result     Result `json:"result"`
	Containers int    `json:"containers"`
	// Unfailed says that the action turns it from Fail to a better result.
	Unfailed bool `json:"unfailed"`
}
