package node

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/server/client"
)

// image is one that the node holds and that is to be scanned.
type image struct {
	scanner.StoredImage
	Running bool
}

// inventory is what the agent is to tell of.
type inventory struct {
	images    map[string]image // by digest
	instances map[client.InstanceKey]client.Instance
	excluded  int // images
	unnamed   int // images
}

// runtimeService is CRI's. A CRI that only lists images has none.
type runtimeService struct {
	client cri.RuntimeServiceClient
	close  func() error
}

// isDigest tells digests as the server takes them: a report with another would be refused whole.
var isDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// maxMessage bounds an answer of CRI, in bytes, as the kubelet does.
const maxMessage = 16 << 20

func dialCRI(socket string) (*runtimeService, error) {
	path := strings.TrimPrefix(socket, "unix://")
	if !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("--cri-socket must be a path such as /run/containerd/containerd.sock, not %q", socket)
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("preparing to ask CRI: %w", err)
	}
	return &runtimeService{cri.NewRuntimeServiceClient(conn), conn.Close}, nil
}

// container is one that CRI knows.
type container struct {
	instance client.Instance
	running  bool
	created  int64
}

// criWait bounds one answer of CRI.
const criWait = 30 * time.Second

// containers lists those of all pods, with the reference that each was started with.
func (r *runtimeService) containers(ctx context.Context) ([]container, error) {
	ctx, cancel := context.WithTimeout(ctx, criWait)
	defer cancel()
	sandboxes, err := r.client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking CRI for the pods: %w", err)
	}
	listed, err := r.client.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking CRI for the containers: %w", err)
	}
	pods := map[string]*cri.PodSandboxMetadata{}
	for _, s := range sandboxes.Items {
		pods[s.Id] = s.Metadata
	}
	var all []container
	for _, c := range listed.Containers {
		pod := pods[c.PodSandboxId]
		if pod == nil { // listed between the two answers, or its pod is being removed
			pod = &cri.PodSandboxMetadata{Namespace: c.Labels["io.kubernetes.pod.namespace"], Name: c.Labels["io.kubernetes.pod.name"]}
		}
		one := container{created: c.CreatedAt, running: c.State == cri.ContainerState_CONTAINER_RUNNING,
			instance: client.Instance{Namespace: pod.GetNamespace(), Pod: pod.GetName(), Container: c.Metadata.GetName()}}
		for _, id := range []string{c.ImageId, c.ImageRef} {
			name, digest, named := strings.Cut(id, "@")
			switch {
			case named && isDigest.MatchString(digest):
				one.instance.Digest = digest
			case !named && isDigest.MatchString(name):
				one.instance.ConfigDigest = name
			}
		}
		for _, name := range []string{c.Image.GetUserSpecifiedImage(), c.Image.GetImage(), c.ImageRef} {
			if ref, err := api.ParseReference(name); err == nil && !strings.HasPrefix(name, "sha256:") {
				one.instance.Image = ref.String()
				break
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// take joins what containerd holds and what CRI runs.
func take(stored []scanner.StoredImage, containers []container, s *settings, runningOnly bool) inventory {
	v := inventory{images: map[string]image{}, instances: map[client.InstanceKey]client.Instance{}}
	find := func(i client.Instance) *scanner.StoredImage {
		var same *scanner.StoredImage
		for n := range stored {
			one := &stored[n]
			if i.Digest != "" && (i.Digest == one.Digest || i.Digest == one.Index) {
				return one
			}
			if i.ConfigDigest != "" && i.ConfigDigest == one.ConfigDigest {
				// One configuration may come by several manifests, packed in different ways.
				if same == nil || slices.Contains(one.Names, i.Image) {
					same = one
				}
			}
		}
		return same
	}
	used, inExcluded := map[string]bool{}, map[string]bool{}
	newest := map[client.InstanceKey]int64{}
	names := map[string]string{}
	for _, c := range containers {
		one := find(c.instance)
		if s.excludes(c.instance.Namespace) {
			if one != nil {
				inExcluded[one.Digest] = true
			}
			continue
		}
		i := c.instance
		if one != nil {
			i.Digest, i.ConfigDigest = one.Digest, one.ConfigDigest
			if i.Image == "" && len(one.Names) > 0 {
				i.Image = one.Names[0]
			}
			used[one.Digest] = used[one.Digest] || c.running
			if i.Image != "" {
				names[one.Digest] = i.Image
			}
		}
		if !c.running || i.Image == "" || i.Namespace == "" || i.Pod == "" || i.Container == "" {
			continue
		}
		key := client.InstanceKey{Namespace: i.Namespace, Pod: i.Pod, Container: i.Container}
		if at, ok := newest[key]; ok && at > c.created {
			continue // an earlier pod of that name, which has not gone yet
		}
		newest[key] = c.created
		v.instances[key] = i
	}
	for _, one := range stored {
		running, mentioned := used[one.Digest]
		if inExcluded[one.Digest] && !mentioned {
			v.excluded++
			continue
		}
		all := one.Names
		if name := names[one.Digest]; name != "" {
			all = append([]string{name}, all...) // the name under which it runs comes first
		}
		one.Names = namesOf(all, one.Digest)
		switch {
		case !running && (runningOnly || isPause(one.Names)):
		case len(one.Names) == 0:
			v.unnamed++
		default:
			v.images[one.Digest] = image{one, running}
		}
	}
	return v
}

// namesOf are the names of an image to tell of: CRI keeps a record by digest beside that of each tag, which says no more.
func namesOf(all []string, digest string) []string {
	tagged := map[string]bool{}
	for _, name := range all {
		if ref, err := api.ParseReference(name); err == nil && ref.Digest == "" {
			tagged[ref.Name()] = true
		}
	}
	var names []string
	for _, name := range all {
		ref, err := api.ParseReference(name)
		if err != nil || ref.Digest != "" && tagged[ref.Name()] {
			continue
		}
		if name = ofManifest(name, digest); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// ofManifest is a reference whose digest, if any, is that of the platform's manifest.
func ofManifest(name, digest string) string {
	ref, err := api.ParseReference(name)
	if err != nil || ref.Digest == "" {
		return name
	}
	ref.Digest = digest
	return ref.String()
}

// isPause tells the image of pods' sandboxes, in which nothing but a pause is.
func isPause(names []string) bool {
	return len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool {
		ref, err := api.ParseReference(n)
		return err != nil || ref.Path != "pause" && !strings.HasSuffix(ref.Path, "/pause") && !strings.HasSuffix(ref.Path, "-pause")
	})
}

// connect reaches containerd and CRI, where it has not yet.
func (a *Agent) connect() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.store == nil {
		s, err := scanner.New(scanner.Config{ContainerdAddress: a.Address, ContainerdNamespace: a.Namespace})
		if err != nil {
			return err
		}
		if a.store, err = s.ContainerdStore(); err != nil {
			return err
		}
	}
	if a.cri == nil && a.CRISocket != NoCRI {
		socket := a.CRISocket
		if socket == "" {
			if socket = a.Address; socket == "" {
				socket = "/run/containerd/containerd.sock"
			}
		}
		r, err := dialCRI(socket)
		if err != nil {
			return err
		}
		a.cri = r
	}
	return nil
}

// takeInventory looks at containerd and CRI.
func (a *Agent) takeInventory(ctx context.Context) error {
	if !a.settings.Load().Enabled {
		a.mu.Lock()
		a.inventory = inventory{}
		a.mu.Unlock()
		kick(a.toReport)
		return nil
	}
	if err := a.connect(); err != nil {
		return err
	}
	stored, err := a.store.Images(ctx)
	if err != nil {
		return err
	}
	var containers []container
	if a.cri != nil {
		if containers, err = a.cri.containers(ctx); err != nil {
			return err
		}
	}
	v := take(stored, containers, a.settings.Load(), a.RunningOnly)
	a.mu.Lock()
	a.inventory = v
	a.forget(stored)
	a.mu.Unlock()
	kick(a.toReport)
	kick(a.toScan)
	return nil
}

// settle is how long events are gathered before the node is looked at.
const settle = 300 * time.Millisecond

// watch keeps the inventory new. Where CRI tells of containers as they come and go, a
// look at them follows; else they are looked at again and again.
func (a *Agent) watch(ctx context.Context) error {
	events := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.follow(ctx, events)
	}()
	defer func() { <-done }()
	for {
		for !a.settings.Load().Known {
			if !pause(ctx, time.Hour, a.look) {
				return nil
			}
		}
		err := a.takeInventory(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if was := a.read.Swap(err == nil); err != nil {
			a.Log.Error("reading the node's containers and images; trying again", "error", err)
		} else if !was {
			a.Log.Info("the node's containers and images are read", "images", len(a.inventory.images), "containers", len(a.inventory.instances))
		}
		t := time.NewTimer(a.Poll)
		select {
		case <-ctx.Done():
		case <-a.look:
		case <-t.C:
		case <-events:
			pause(ctx, settle, nil)
			select { // what came meanwhile is seen now
			case <-events:
			default:
			}
		}
		t.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// follow asks CRI for events as long as it sends some.
func (a *Agent) follow(ctx context.Context, events chan struct{}) {
	told := false
	for ctx.Err() == nil {
		a.mu.Lock()
		r := a.cri
		a.mu.Unlock()
		if a.CRISocket == NoCRI {
			return
		}
		if r != nil {
			stream, err := r.client.GetContainerEvents(ctx, &cri.GetEventsRequest{})
			for err == nil {
				if _, err = stream.Recv(); err == nil {
					kick(events)
				}
			}
			if status.Code(err) == codes.Unimplemented {
				a.Log.Info("CRI sends no events: containers are listed at each poll", "poll", a.Poll)
				return
			}
			if ctx.Err() == nil && !told && !errors.Is(err, context.Canceled) {
				told = true
				a.Log.Warn("CRI's events ended; asking again, and listing at each poll meanwhile", "error", err)
			}
		}
		pause(ctx, a.Poll, nil)
	}
}
