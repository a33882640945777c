package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/assay-dev/assay/webhook/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var config doctor.Config
	var kubeconfig, context string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Examine an installation of the admission webhook, and say what is wrong",
		Long: `Looks at the cluster that kubectl would use: the kinds, the registration of the
webhook, who the API server trusts and until when, the replicas, and the policies
that are not in force. It changes nothing. The exit status is 1 when a check fails.`,
		Example: `  assay doctor
  assay doctor --namespace security --registration assay -o json`,
		Args: cobra.NoArgs,
	}
	out := outputFlag(c)
	c.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig (default kubectl's)")
	c.Flags().StringVar(&context, "context", "", "context of the kubeconfig")
	c.Flags().StringVarP(&config.Namespace, "namespace", "n", "assay-system", "namespace of the installation")
	c.Flags().StringVar(&config.Service, "service", "assay-webhook", "Service of the webhook")
	c.Flags().StringVar(&config.Registration, "registration", "assay", "ValidatingWebhookConfiguration of the webhook")
	c.RunE = func(c *cobra.Command, _ []string) error {
		rules := clientcmd.NewDefaultClientConfigLoadingRules()
		rules.ExplicitPath = kubeconfig
		cluster, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
		if err != nil {
			return fmt.Errorf("no cluster: %w", err)
		}
		if config.Client, err = kubernetes.NewForConfig(cluster); err != nil {
			return err
		}
		if config.Dynamic, err = dynamic.NewForConfig(cluster); err != nil {
			return err
		}
		report, err := doctor.Examine(c.Context(), config)
		if err != nil {
			return err
		}
		if *out == "json" {
			e := json.NewEncoder(a.out)
			e.SetIndent("", "  ")
			err = e.Encode(report)
		} else {
			for _, check := range report.Checks {
				mark := map[string]string{doctor.OK: a.paint(a.out, green, "✓"), doctor.Warn: a.paint(a.out, yellow, "!"), doctor.Fail: a.paint(a.out, red, "✗")}[check.State]
				fmt.Fprintf(a.out, "%s %s: %s\n", mark, check.Name, printable(check.Message))
				if check.Remedy != "" {
					fmt.Fprintf(a.out, "    %s\n", check.Remedy)
				}
			}
		}
		if err == nil && !report.OK {
			return answer(exitNo)
		}
		return err
	}
	return c
}
