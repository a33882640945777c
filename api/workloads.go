package api

// known are kinds of widely used projects. An image path is there where what it leads to is
// no whole pod template. The references are members that each object of the kind has, or has
// instead of what it would run.
var known = workloads(
	group{"jobset.x-k8s.io", []Workload{
		{Kind: "JobSet", Resource: "jobsets", Templates: []string{"spec.replicatedJobs[].template.spec.template"}},
	}},
	group{"leaderworkerset.x-k8s.io", []Workload{
		{Kind: "LeaderWorkerSet", Resource: "leaderworkersets", Templates: []string{"spec.leaderWorkerTemplate.leaderTemplate", "spec.leaderWorkerTemplate.workerTemplate"}},
	}},
	group{"argoproj.io", []Workload{
		{Kind: "Rollout", Resource: "rollouts", Templates: []string{"spec.template"}, References: []string{"spec.workloadRef"}},
		argo("Workflow", "workflows", "spec"),
		argo("WorkflowTemplate", "workflowtemplates", "spec"),
		argo("ClusterWorkflowTemplate", "clusterworkflowtemplates", "spec"),
		argo("CronWorkflow", "cronworkflows", "spec.workflowSpec"),
	}},
	group{"serving.knative.dev", []Workload{
		{Kind: "Service", Resource: "services", Templates: []string{"spec.template"}},
		{Kind: "Configuration", Resource: "configurations", Templates: []string{"spec.template"}},
		{Kind: "Revision", Resource: "revisions", Templates: []string{""}},
	}},
	group{"serving.kserve.io", []Workload{
		{Kind: "InferenceService", Resource: "inferenceservices", Images: inferenceImages(), References: []string{"spec.predictor"}},
		{Kind: "ServingRuntime", Resource: "servingruntimes", Images: pods("spec", "spec.workerSpec"), References: []string{"spec.supportedModelFormats"}},
		{Kind: "ClusterServingRuntime", Resource: "clusterservingruntimes", Images: pods("spec", "spec.workerSpec"), References: []string{"spec.supportedModelFormats"}},
	}},
	group{"apps.kruise.io", []Workload{
		{Kind: "CloneSet", Resource: "clonesets", Templates: []string{"spec.template"}},
		{Kind: "StatefulSet", Resource: "statefulsets", Templates: []string{"spec.template"}},
		{Kind: "DaemonSet", Resource: "daemonsets", Templates: []string{"spec.template"}},
		{Kind: "BroadcastJob", Resource: "broadcastjobs", Templates: []string{"spec.template"}},
		{Kind: "AdvancedCronJob", Resource: "advancedcronjobs", Templates: []string{"spec.template.jobTemplate.spec.template", "spec.template.broadcastJobTemplate.spec.template"}, References: []string{"spec.template.imageListPullJobTemplate"}},
		{Kind: "UnitedDeployment", Resource: "uniteddeployments", Templates: []string{
			"spec.template.statefulSetTemplate.spec.template", "spec.template.advancedStatefulSetTemplate.spec.template",
			"spec.template.cloneSetTemplate.spec.template", "spec.template.deploymentTemplate.spec.template",
		}},
		{Kind: "SidecarSet", Resource: "sidecarsets", Images: pods("spec"), References: []string{"spec.selector"}},
	}},
	group{"ray.io", []Workload{
		ray("RayCluster", "rayclusters", "spec", nil),
		ray("RayJob", "rayjobs", "spec.rayClusterSpec", []string{"spec.submitterPodTemplate"}, "spec.clusterSelector"),
		ray("RayService", "rayservices", "spec.rayClusterConfig", nil),
	}},
	group{"sparkoperator.k8s.io", []Workload{
		spark("SparkApplication", "sparkapplications", "spec"),
		spark("ScheduledSparkApplication", "scheduledsparkapplications", "spec.template"),
	}},
	group{"flink.apache.org", []Workload{
		{
			Kind: "FlinkDeployment", Resource: "flinkdeployments", References: []string{"spec.flinkVersion"},
			Images: append([]string{"spec.image"}, pods("spec.podTemplate.spec", "spec.jobManager.podTemplate.spec", "spec.taskManager.podTemplate.spec")...),
		},
	}},
	group{"kubevirt.io", []Workload{
		vm("VirtualMachine", "virtualmachines", "spec.template.spec"),
		vm("VirtualMachineInstance", "virtualmachineinstances", "spec"),
		vm("VirtualMachineInstanceReplicaSet", "virtualmachineinstancereplicasets", "spec.template.spec"),
	}},
	group{"pool.kubevirt.io", []Workload{
		vm("VirtualMachinePool", "virtualmachinepools", "spec.virtualMachineTemplate.spec.template.spec"),
	}},
	group{"tekton.dev", []Workload{
		{Kind: "Task", Resource: "tasks", Images: steps("spec"), References: []string{"spec.steps"}},
		{Kind: "ClusterTask", Resource: "clustertasks", Images: steps("spec"), References: []string{"spec.steps"}},
		{Kind: "TaskRun", Resource: "taskruns", Images: steps("spec.taskSpec"), References: []string{"spec.taskRef", "spec.taskSpec"}},
		{Kind: "StepAction", Resource: "stepactions", Images: []string{"spec.image"}},
		{Kind: "Pipeline", Resource: "pipelines", Images: steps("spec.tasks[].taskSpec", "spec.finally[].taskSpec"), References: []string{"spec.tasks"}},
		{Kind: "PipelineRun", Resource: "pipelineruns", Images: steps("spec.pipelineSpec.tasks[].taskSpec", "spec.pipelineSpec.finally[].taskSpec"), References: []string{"spec.pipelineRef", "spec.pipelineSpec"}},
	}},
	group{"apps.openshift.io", []Workload{
		{Kind: "DeploymentConfig", Resource: "deploymentconfigs", Templates: []string{"spec.template"}},
	}},
	group{"keda.sh", []Workload{
		{Kind: "ScaledJob", Resource: "scaledjobs", Templates: []string{"spec.jobTargetRef.template"}},
	}},
	group{"kubeflow.org", []Workload{
		{Kind: "MPIJob", Resource: "mpijobs", Templates: []string{"spec.mpiReplicaSpecs[].template"}},
		{Kind: "Notebook", Resource: "notebooks", Templates: []string{"spec.template"}},
		{Kind: "PyTorchJob", Resource: "pytorchjobs", Templates: []string{"spec.pytorchReplicaSpecs[].template"}},
		{Kind: "TFJob", Resource: "tfjobs", Templates: []string{"spec.tfReplicaSpecs[].template"}},
	}},
	group{"batch.volcano.sh", []Workload{
		{Kind: "Job", Resource: "jobs", Templates: []string{"spec.tasks[].template"}},
	}},
)

type group struct {
	name  string
	kinds []Workload
}

func workloads(groups ...group) (all []Workload) {
	for _, g := range groups {
		for _, w := range g.kinds {
			w.Group = g.name
			all = append(all, w)
		}
	}
	return all
}

// under are paths below each of some objects.
func under(objects []string, paths ...string) (all []string) {
	for _, o := range objects {
		for _, p := range paths {
			all = append(all, o+"."+p)
		}
	}
	return all
}

// pods are the images of pod specs that need not be whole.
func pods(specs ...string) []string {
	return under(specs, "initContainers[].image", "containers[].image", "ephemeralContainers[].image", "volumes[].image.reference")
}

// steps are the images of Tekton's tasks.
func steps(tasks ...string) []string {
	return under(tasks, "steps[].image", "sidecars[].image", "stepTemplate.image")
}

func argo(kind, resource, spec string) Workload {
	templates := under([]string{spec}, "templates[]", "templateDefaults", "templates[].steps[][].inline", "templates[].dag.tasks[].inline")
	return Workload{
		Kind: kind, Resource: resource,
		Images:     under(templates, "container.image", "script.image", "containerSet.containers[].image", "initContainers[].image", "sidecars[].image"),
		References: under([]string{spec}, "templates", "workflowTemplateRef"),
	}
}

func inferenceImages() []string {
	const predictor, explainer = "spec.predictor", "spec.explainer"
	images := pods(predictor, predictor+".workerSpec", "spec.transformer", explainer)
	images = append(images, under([]string{predictor}, "model.image", "huggingface.image", "lightgbm.image", "onnx.image", "paddle.image", "pmml.image",
		"pytorch.image", "sklearn.image", "tensorflow.image", "triton.image", "xgboost.image")...)
	return append(images, explainer+".art.image")
}

func ray(kind, resource, cluster string, templates []string, references ...string) Workload {
	return Workload{
		Kind: kind, Resource: resource, References: references,
		Templates: append(under([]string{cluster}, "headGroupSpec.template", "workerGroupSpecs[].template"), templates...),
	}
}

func spark(kind, resource, spec string) Workload {
	images := []string{spec + ".image"}
	for _, part := range []string{spec + ".driver", spec + ".executor"} {
		images = append(images, under([]string{part}, "image", "initContainers[].image", "sidecars[].image")...)
		images = append(images, pods(part+".template.spec")...)
	}
	return Workload{Kind: kind, Resource: resource, Images: images, References: []string{spec + ".type"}}
}

func vm(kind, resource, spec string) Workload {
	return Workload{
		Kind: kind, Resource: resource, References: []string{spec + ".domain"},
		Images: under([]string{spec}, "volumes[].containerDisk.image", "domain.firmware.kernelBoot.container.image"),
	}
}
