package cluster

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// As gives the configuration of a user, in groups, who has what RBAC gives and nothing else.
func (c *Cluster) As(user string, groups ...string) *rest.Config {
	config := rest.AnonymousClientConfig(c.Config)
	config.QPS = c.Config.QPS
	credentials := c.sign(user, groups...)
	config.CertData, config.KeyData = credentials.CertData, credentials.KeyData
	return config
}

// sign makes a client certificate. It panics where no key can be made: that has no
// reason but a broken machine, and callers are spared an error.
func (c *Cluster) sign(user string, groups ...string) rest.TLSClientConfig {
	cert, key, err := c.clients.issue(pkix.Name{CommonName: user, Organization: groups})
	if err != nil {
		panic(err)
	}
	return rest.TLSClientConfig{CertData: cert, KeyData: key}
}

// KubeconfigFor writes a user's configuration to a file, for programs that read one.
func (c *Cluster) KubeconfigFor(tb testing.TB, config *rest.Config) string {
	tb.Helper()
	path, err := c.writeKubeconfig("user-"+rand.String(8), config)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

func (c *Cluster) writeKubeconfig(name string, config *rest.Config) (path string, err error) {
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["loopback"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	kubeconfig.AuthInfos["user"] = &clientcmdapi.AuthInfo{
		ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken,
	}
	kubeconfig.Contexts["loopback"] = &clientcmdapi.Context{Cluster: "loopback", AuthInfo: "user"}
	kubeconfig.CurrentContext = "loopback"
	path = c.file(name + ".kubeconfig")
	return path, clientcmd.WriteToFile(*kubeconfig, path)
}

// Namespace makes a namespace in which Pods can be made, and deletes it after the test.
func (c *Cluster) Namespace(tb testing.TB, labels map[string]string) string {
	tb.Helper()
	namespace, err := c.Client.CoreV1().Namespaces().Create(tb.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: labels},
	}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	name := namespace.Name
	tb.Cleanup(func() {
		ctx, now := context.Background(), int64(0)
		if err := errors.Join(
			c.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}),
			// No kubelet ever confirms that a Pod ended.
			c.Client.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}),
		); err != nil {
			tb.Error(err)
		}
	})
	Eventually(tb, func() error { // its Pods need it
		_, err := c.Client.CoreV1().ServiceAccounts(name).Get(tb.Context(), "default", metav1.GetOptions{})
		return err
	})
	return name
}

// Service makes a Service that stands for a server on a port of this machine. Whoever refers to it, a webhook or an
// APIService, names that same port; the server's certificate is for NAME.NAMESPACE.svc.
func (c *Cluster) Service(tb testing.TB, namespace, name string, port int) {
	tb.Helper()
	if _, err := c.Client.CoreV1().Services(namespace).Create(tb.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeExternalName, ExternalName: "localhost",
			Ports: []corev1.ServicePort{{Port: int32(port)}},
		},
	}, metav1.CreateOptions{}); err != nil {
		tb.Fatal(err)
	}
}

// Apply applies the objects of a YAML text, in their order, as the administrator. A kind may come
// after its CustomResourceDefinition.
func (c *Cluster) Apply(tb testing.TB, text string) {
	tb.Helper()
	if err := c.ApplyAs(tb.Context(), c.Config, text); err != nil {
		tb.Fatal(err)
	}
}

// ApplyAs is Apply by a user, whom the API server may refuse.
func (c *Cluster) ApplyAs(ctx context.Context, user *rest.Config, text string) error {
	client, err := dynamic.NewForConfig(user)
	if err != nil {
		return err
	}
	documents := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := documents.Decode(&object.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(object.Object) == 0 {
			continue
		}
		resource, err := c.resource(ctx, client, object)
		if err == nil {
			_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: "test", Force: true})
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}

// resource finds where an object belongs. The kinds are looked up as the administrator, whoever asks.
func (c *Cluster) resource(ctx context.Context, client dynamic.Interface, object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	for deadline := time.Now().Add(time.Minute); meta.IsNoMatchError(err) && time.Now().Before(deadline) && ctx.Err() == nil; {
		time.Sleep(100 * time.Millisecond) // its definition may have come just now
		c.mapper.Reset()
		mapping, err = c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return client.Resource(mapping.Resource), nil
	}
	namespace := object.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return client.Resource(mapping.Resource).Namespace(namespace), nil
}

func newMapper(client discovery.DiscoveryInterface) *restmapper.DeferredDiscoveryRESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
}

// Eventually waits until check succeeds, for two minutes.
func Eventually(tb testing.TB, check func() error) {
	tb.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || tb.Context().Err() != nil {
			tb.Fatal(err)
		}
	}
}
