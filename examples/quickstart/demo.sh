#!/bin/sh
# The demo of `make demo`: real images, a real vulnerability database, the
# decisions that a cluster would get. Each command that it runs is shown.
set -eu
bin=${BIN:-bin/assay}
go=${GO:-go}
here=examples/quickstart
out=$here/build

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
if [ -n "${NO_COLOR:-}" ] || [ ! -t 1 ]; then say() { printf '\n%s\n' "$*"; }; fi

# run shows a command, runs it, and insists on its exit status.
run() {
	want=$1
	shift
	printf '$ assay %s\n' "$*"
	status=0
	"$bin" "$@" || status=$?
	if [ "$status" -ne "$want" ]; then
		echo "the demo expected exit status $want and got $status" >&2
		exit 1
	fi
}

say 'Making two example images and a vulnerability database (no network but the module proxy)'
mkdir -p "$out"
"$go" run ./$here/mkimage -o "$out"
run 0 db build $here/advisories -o "$out/db"

say '1. Scan both images: one fails, so the exit status is 1'
run 1 scan "oci-archive:$out/frontend.oci.tar" "oci-archive:$out/backend.oci.tar" --db "$out/db" -o table -o "json=$out/scans.json"

say '2. Would the cluster admit their Deployments?'
run 1 admit -f $here/deployments/frontend.yaml --policies $here/policies --scans "$out/scans.json" --namespace-labels environment=production
run 0 admit -f $here/deployments/backend.yaml --policies $here/policies --scans "$out/scans.json" --namespace-labels environment=production

say '3. Which alerts fire over a file of events?'
run 0 alerts --policies examples/alerts/policies --events examples/alerts/events.jsonl --now 2026-06-01T12:00:00Z

say '4. Exceptions turn Fail into Warn, and the Deployment is admitted'
run 0 scan "oci-archive:$out/frontend.oci.tar" --db "$out/db" --exceptions $here/exceptions.csv -o "json=$out/excepted.json" -o "template" --template $here/summary.tmpl
run 0 admit -f $here/deployments/frontend.yaml --policies $here/policies --scans "$out/scans.json" --exceptions $here/exceptions.csv --namespace-labels environment=production

say '5. The same verdict from a bundle, in any OPA'
run 0 bundle build $here/policies --scans "$out/scans.json" -o "$out/bundle.tar.gz"
printf '%s\n' "\$ opa eval -b $out/bundle.tar.gz -i $here/review.json data.assay.admission.decision"

say '6. A server with a page for people, and the images on it'
data=$out/server
rm -rf "$data"
mkdir -p "$data"
printf '$ assay serve --data %s --policies %s --db %s --anonymous editor\n' "$data" "$here/policies" "$out/db"
"$bin" serve --data "$data" --policies $here/policies --db "$out/db" --db-max-age 0 --listen 127.0.0.1:0 --anonymous editor 2>"$data/log" &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true' EXIT INT TERM
url=
for _ in $(seq 100); do
	kill -0 $server 2>/dev/null || { cat "$data/log" >&2; exit 1; }
	url=$(sed -n 's/.*msg=serving address=\([^ ]*\).*/http:\/\/\1/p' "$data/log")
	if [ -n "$url" ] && [ -s "$data/admin.token" ] && curl -fs "$url/readyz" >/dev/null; then break; fi
	sleep 0.2
done
CC_TOKEN=$(cat "$data/admin.token")
export CC_TOKEN
run 1 scan "oci-archive:$out/frontend.oci.tar" "oci-archive:$out/backend.oci.tar" --db "$out/db" -o "json=$out/scans.json" --apiurl "$url"
page=$(curl -fs -H 'Accept: text/html' "$url/images")
for image in frontend backend; do
	case $page in *"$image"*) ;; *) echo "the page does not show the image $image" >&2; exit 1 ;; esac
done

say 'Next: scan an image of your own'
cat <<END
  $bin db update
  $bin scan nginx:latest
END
say "The page is at $url, with the example's images"
if [ -t 1 ]; then
	echo 'Ctrl-C ends it.'
	trap - INT
	trap 'exit 0' INT
	wait $server
fi
