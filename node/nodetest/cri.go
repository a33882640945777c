// Package nodetest has what an agent of package node talks to, for tests: CRI and
// containerd of a node where nothing runs, and a server that keeps what it is told.
package nodetest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container is one of a pod, as CRI tells of it.
type Container struct {
	Namespace, Pod, Name string
	// Image is the reference of the pod's manifest, ID what containerd knows the image by.
	Image, ID string
	Exited    bool
}

// CRI is a runtime service in which containers seem to run. It is safe for concurrent use.
type CRI struct {
	cri.UnimplementedRuntimeServiceServer
	// Socket is where it listens.
	Socket string
	// NoEvents makes it one that sends no events; set it before anyone asks.
	NoEvents bool

	mu         sync.Mutex
	containers map[string]*cri.Container
	pods       map[string]*cri.PodSandbox
	made       int64
	watchers   map[chan *cri.ContainerEventResponse]bool
	lists      int
}

// StartCRI starts one that ends with the test.
func StartCRI(tb testing.TB, noEvents bool) *CRI {
	tb.Helper()
	c := &CRI{Socket: filepath.Join(shortDir(tb), "cri.sock"), NoEvents: noEvents, containers: map[string]*cri.Container{}, pods: map[string]*cri.PodSandbox{}, watchers: map[chan *cri.ContainerEventResponse]bool{}}
	serve(tb, c.Socket, func(s *grpc.Server) { cri.RegisterRuntimeServiceServer(s, c) })
	return c
}

// serve serves gRPC on a socket until the test ends.
func serve(tb testing.TB, socket string, register func(*grpc.Server)) {
	tb.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	tb.Cleanup(func() { s.Stop(); <-done })
}

// Run starts a container in a sandbox of its own; it gives CRI's id of it.
func (c *CRI) Run(x Container) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	pod := fmt.Sprintf("pod-%d", c.made)
	c.pods[pod] = &cri.PodSandbox{Id: pod, State: cri.PodSandboxState_SANDBOX_READY, Metadata: &cri.PodSandboxMetadata{Namespace: x.Namespace, Name: x.Pod, Uid: pod}}
	id := fmt.Sprintf("container-%d", c.made)
	one := &cri.Container{Id: id, PodSandboxId: pod, CreatedAt: c.made, Metadata: &cri.ContainerMetadata{Name: x.Name}, State: cri.ContainerState_CONTAINER_RUNNING,
		Image: &cri.ImageSpec{Image: x.ID, UserSpecifiedImage: x.Image}, ImageRef: x.ID, ImageId: x.ID}
	if x.Exited {
		one.State = cri.ContainerState_CONTAINER_EXITED
	}
	c.containers[id] = one
	c.tell(id, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	return id
}

// Exit ends a container; CRI still knows it.
func (c *CRI) Exit(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A copy: an answer with the old one may be on its way.
	old := c.containers[id]
	c.containers[id] = &cri.Container{Id: old.Id, PodSandboxId: old.PodSandboxId, CreatedAt: old.CreatedAt, Metadata: old.Metadata, Image: old.Image,
		ImageRef: old.ImageRef, ImageId: old.ImageId, State: cri.ContainerState_CONTAINER_EXITED}
	c.tell(id, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// Remove takes a container away, and its pod.
func (c *CRI) Remove(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, c.containers[id].GetPodSandboxId())
	delete(c.containers, id)
	c.tell(id, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
}

func (c *CRI) tell(id string, kind cri.ContainerEventType) {
	for w := range c.watchers {
		select {
		case w <- &cri.ContainerEventResponse{ContainerId: id, ContainerEventType: kind}:
		default: // as containerd does with one who does not read
		}
	}
}

// Lists counts how often the containers were listed.
func (c *CRI) Lists() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lists
}

// ListPodSandbox implements CRI.
func (c *CRI) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &cri.ListPodSandboxResponse{Items: slices.Collect(maps.Values(c.pods))}, nil
}

// ListContainers implements CRI.
func (c *CRI) ListContainers(context.Context, *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists++
	return &cri.ListContainersResponse{Containers: slices.Collect(maps.Values(c.containers))}, nil
}

// GetContainerEvents implements CRI.
func (c *CRI) GetContainerEvents(_ *cri.GetEventsRequest, stream cri.RuntimeService_GetContainerEventsServer) error {
	if c.NoEvents {
		return status.Error(codes.Unimplemented, "unknown method GetContainerEvents")
	}
	w := make(chan *cri.ContainerEventResponse, 100)
	c.mu.Lock()
	c.watchers[w] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.watchers, w)
		c.mu.Unlock()
	}()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e := <-w:
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

// Running counts the containers that run, by their names: a restart is the same one.
func (c *CRI) Running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := map[string]bool{}
	for _, x := range c.containers {
		if x.State == cri.ContainerState_CONTAINER_RUNNING {
			pod := c.pods[x.PodSandboxId].GetMetadata()
			names[pod.GetNamespace()+"/"+pod.GetName()+"/"+x.Metadata.Name] = true
		}
	}
	return len(names)
}
