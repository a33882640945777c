package fleet

import (
	"encoding/json"
	"fmt"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/review"
)

// Review is one request in all the forms that contenders take.
type Review struct {
	JSON    []byte         // the AdmissionReview
	Flat    api.Review     // what package review makes of it
	Raw     []byte         // its object
	Object  map[string]any // its object, decoded
	Request map[string]any // its request, decoded
}

type object = map[string]any

// Reviews are n creations of Deployments with the given number of containers, as
// the API server sends them: defaulted, with managedFields. One in ten has an
// image that the policies refuse; one in fifty an image never scanned.
func (f *Fleet) Reviews(n, containers int) ([]Review, error) {
	reviews := make([]Review, n)
	for i := range reviews {
		r := f.rand(i, 5)
		images := make([]string, containers)
		for c := range images {
			image := r.IntN(f.Images)
			for image%teams == strictTeam {
				image = r.IntN(f.Images)
			}
			if images[c] = f.Tagged(image); r.IntN(5) == 0 {
				images[c] = f.Pinned(image)
			}
		}
		switch {
		case i%10 == 3: // the team's images fail but for about two in three
			for range 20 {
				image := r.IntN(f.Images)/teams*teams + strictTeam
				if image < f.Images {
					images[r.IntN(containers)] = f.Tagged(image)
					if f.class[f.base(image)] == len(caps)-1 {
						break
					}
				}
			}
		case i%50 == 7:
			images[0] = Unscanned
		}
		request := f.request(i, images)
		document := object{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
		if err := reviews[i].encode(document); err != nil {
			return nil, fmt.Errorf("making review %d: %w", i, err)
		}
	}
	return reviews, nil
}

// Unscanned is a reference that no scan has.
const Unscanned = "registry.example.com/team-3/never-scanned:v1"

func (r *Review) encode(document object) error {
	var err error
	if r.JSON, err = json.Marshal(document); err != nil {
		return err
	}
	var decoded struct{ Request object }
	if err := json.Unmarshal(r.JSON, &decoded); err != nil {
		return err
	}
	r.Request = decoded.Request
	r.Object = decoded.Request["object"].(object)
	if r.Raw, err = json.Marshal(r.Object); err != nil {
		return err
	}
	in, err := review.FromAdmissionReview(r.JSON, review.KindsOf(api.AdmissionSettingsSpec{}))
	r.Flat = in.Review
	return err
}

func (f *Fleet) request(i int, images []string) object {
	name, namespace := fmt.Sprintf("web-%d", i), fmt.Sprintf("ns-%d", i%40)
	deployments := object{"group": "apps", "version": "v1", "resource": "deployments"}
	kind := object{"group": "apps", "version": "v1", "kind": "Deployment"}
	return object{
		"uid": fmt.Sprintf("705ab4f5-6393-11e8-b7cc-%012d", i), "kind": kind, "resource": deployments, "requestKind": kind, "requestResource": deployments,
		"name": name, "namespace": namespace, "operation": "CREATE",
		"userInfo": object{"username": "alice@example.com", "groups": []any{"developers", "system:authenticated"}},
		"object":   deployment(name, namespace, images), "oldObject": nil, "dryRun": false,
		"options": object{"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "kubectl-client-side-apply", "fieldValidation": "Strict"},
	}
}

func deployment(name, namespace string, images []string) object {
	labels := object{"app": name, "app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "shop", "tier": "backend"}
	var containers []any
	managed := object{}
	for i, image := range images {
		c := fmt.Sprintf("c%d", i)
		containers = append(containers, container(c, image))
		managed[fmt.Sprintf(`k:{"name":"%s"}`, c)] = object{
			".": object{}, "f:image": object{}, "f:imagePullPolicy": object{}, "f:name": object{},
			"f:env":                    object{".": object{}, `k:{"name":"LOG_LEVEL"}`: object{".": object{}, "f:name": object{}, "f:value": object{}}, `k:{"name":"DATABASE_URL"}`: object{".": object{}, "f:name": object{}, "f:valueFrom": object{".": object{}, "f:secretKeyRef": object{}}}},
			"f:ports":                  object{".": object{}, `k:{"containerPort":8080,"protocol":"TCP"}`: object{".": object{}, "f:containerPort": object{}, "f:name": object{}, "f:protocol": object{}}},
			"f:livenessProbe":          probeFields(),
			"f:readinessProbe":         probeFields(),
			"f:resources":              object{".": object{}, "f:limits": object{".": object{}, "f:cpu": object{}, "f:memory": object{}}, "f:requests": object{".": object{}, "f:cpu": object{}, "f:memory": object{}}},
			"f:securityContext":        object{".": object{}, "f:allowPrivilegeEscalation": object{}, "f:capabilities": object{".": object{}, "f:drop": object{}}, "f:readOnlyRootFilesystem": object{}, "f:runAsNonRoot": object{}},
			"f:terminationMessagePath": object{}, "f:terminationMessagePolicy": object{}, "f:volumeMounts": object{".": object{}, `k:{"mountPath":"/tmp"}`: object{".": object{}, "f:mountPath": object{}, "f:name": object{}}},
		}
	}
	return object{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": object{
			"name": name, "namespace": namespace, "uid": "6f1d1bb4-4d8c-4a53-9f0e-0d6c2f4a1b7e", "generation": 1, "creationTimestamp": "2026-06-01T11:59:58Z", "labels": labels,
			"annotations": object{"deployment.kubernetes.io/revision": "1", "example.com/owner": "team@example.com", "example.com/commit": "9fceb02d0ae598e95dc970b74767f19372d61af8"},
			"managedFields": []any{object{
				"manager": "kubectl-client-side-apply", "operation": "Update", "apiVersion": "apps/v1", "time": "2026-06-01T11:59:58Z", "fieldsType": "FieldsV1",
				"fieldsV1": object{
					"f:metadata": object{"f:annotations": object{".": object{}, "f:example.com/owner": object{}, "f:example.com/commit": object{}}, "f:labels": object{".": object{}, "f:app": object{}, "f:app.kubernetes.io/name": object{}, "f:app.kubernetes.io/part-of": object{}, "f:tier": object{}}},
					"f:spec": object{
						"f:progressDeadlineSeconds": object{}, "f:replicas": object{}, "f:revisionHistoryLimit": object{}, "f:selector": object{},
						"f:strategy": object{"f:rollingUpdate": object{".": object{}, "f:maxSurge": object{}, "f:maxUnavailable": object{}}, "f:type": object{}},
						"f:template": object{
							"f:metadata": object{"f:labels": object{".": object{}, "f:app": object{}, "f:tier": object{}}},
							"f:spec":     object{"f:containers": managed, "f:dnsPolicy": object{}, "f:restartPolicy": object{}, "f:schedulerName": object{}, "f:securityContext": object{}, "f:serviceAccount": object{}, "f:serviceAccountName": object{}, "f:terminationGracePeriodSeconds": object{}, "f:volumes": object{".": object{}, `k:{"name":"tmp"}`: object{".": object{}, "f:emptyDir": object{}, "f:name": object{}}}},
						},
					},
				},
			}},
		},
		"spec": object{
			"replicas": 3, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
			"selector": object{"matchLabels": object{"app": name}},
			"strategy": object{"type": "RollingUpdate", "rollingUpdate": object{"maxSurge": "25%", "maxUnavailable": "25%"}},
			"template": object{
				"metadata": object{"creationTimestamp": nil, "labels": labels},
				"spec": object{
					"containers": containers, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
					"securityContext": object{"fsGroup": 2000}, "serviceAccount": "web", "serviceAccountName": "web", "terminationGracePeriodSeconds": 30,
					"volumes": []any{object{"name": "tmp", "emptyDir": object{}}},
				},
			},
		},
		"status": object{},
	}
}

func container(name, image string) object {
	probe := func(path string) object {
		return object{"httpGet": object{"path": path, "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
	}
	return object{
		"name": name, "image": image, "imagePullPolicy": "IfNotPresent",
		"env": []any{
			object{"name": "LOG_LEVEL", "value": "info"},
			object{"name": "DATABASE_URL", "valueFrom": object{"secretKeyRef": object{"name": "database", "key": "url"}}},
		},
		"ports":         []any{object{"name": "http", "containerPort": 8080, "protocol": "TCP"}},
		"livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
		"resources":              object{"limits": object{"cpu": "1", "memory": "512Mi"}, "requests": object{"cpu": "100m", "memory": "128Mi"}},
		"securityContext":        object{"allowPrivilegeEscalation": false, "capabilities": object{"drop": []any{"ALL"}}, "readOnlyRootFilesystem": true, "runAsNonRoot": true},
		"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
		"volumeMounts": []any{object{"name": "tmp", "mountPath": "/tmp"}},
	}
}

func probeFields() object {
	return object{".": object{}, "f:failureThreshold": object{}, "f:httpGet": object{".": object{}, "f:path": object{}, "f:port": object{}, "f:scheme": object{}}, "f:periodSeconds": object{}, "f:successThreshold": object{}, "f:timeoutSeconds": object{}}
}
