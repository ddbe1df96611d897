#!/usr/bin/env bash
# Train on TPUs of a Kubernetes cluster (GKE), as a JobSet made from kubernetes.yaml.
#
#   launch/kubernetes.sh render|apply|logs|delete [--dry-run] [options of lmx train, after render and apply]
#
# render    print the JobSet              apply     hand it to the cluster
# logs      follow the first process      delete    take it away; apply again resumes
#
# NAME       the JobSet's name
# IMAGE      a container image with Python and lmx with the tpu extra
# TOPOLOGY   the slice of each pod group, such as v5e:4x4
# CLAIM      a PersistentVolumeClaim that many pods may write; mounted at /runs, where the workdir has to lie
# NAMESPACE  default: default
# RESTARTS   how often failed pods are started again; preempted and saved ones always are; default: 3
# GRACE      seconds between SIGTERM and the end of a pod, to finish a step and save; default: 120
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options "$@"
action=${arguments[0]:-}
case $action in
    render | apply | logs | delete) arguments=("${arguments[@]:1}") ;;
    *) fail "${action:-nothing} asked; expected render, apply, logs or delete" ;;
esac
case $action in logs | delete) alone "$action" "${arguments[@]}" ;; esac
wanted=(NAME "the JobSet's name" lmx)
case $action in
    render | apply)
        wanted+=(
            IMAGE "a container image with lmx" europe-docker.pkg.dev/my-project/lmx/train:1
            TOPOLOGY "the slice" v5e:4x4
            CLAIM "a PersistentVolumeClaim that many pods may write" runs
        )
        ;;
esac
need "${wanted[@]}"
NAMESPACE=${NAMESPACE:-default} RESTARTS=${RESTARTS:-3} GRACE=${GRACE:-120}
named 40
spelled NAMESPACE '[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?' "small letters, digits and -, at most 63, neither end a -"
[[ $action == render ]] || program kubectl "install it and point it at the cluster"

render() { # print kubernetes.yaml with its @NAMES@ filled in
    local line word words="" accelerator=tpu-$chip-slice
    [[ $chip != v5e ]] || accelerator=tpu-v5-lite-podslice
    for word in "${arguments[@]}"; do
        # shellcheck disable=SC2016 # no variables of this shell
        word=${word//'$('/'$$('} # Kubernetes puts variables in for $(NAME), and a text for $$(
        words+=", '${word//\'/\'\'}'"
    done
    local -A filled=(
        [NAME]=$NAME [NAMESPACE]=$NAMESPACE [IMAGE]=$IMAGE [CLAIM]=$CLAIM [RESTARTS]=$RESTARTS [GRACE]=$GRACE
        [HOSTS]=$hosts [CHIPS]=$((chips / hosts)) [ACCELERATOR]=$accelerator [SHAPE]=$shape [ARGUMENTS]=${words:2}
    )
    while IFS= read -r line; do
        for word in "${!filled[@]}"; do line=${line//"@$word@"/"${filled[$word]}"}; done
        printf '%s\n' "$line"
    done < <(grep -v '^#' "$here/kubernetes.yaml")
}

case $action in
    render | apply)
        training "${arguments[@]}"
        lasting /runs "${arguments[@]}"
        whole RESTARTS 0
        whole GRACE 1
        spelled IMAGE '[a-zA-Z0-9][-a-zA-Z0-9._/:@]*' "a reference such as HOST/PATH/lmx:1, without spaces"
        spelled CLAIM '[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?' "small letters, digits, - and ., neither end a - or a ."
        slice "$TOPOLOGY"
        say "$cost, $(counted "$hosts" pod), namespace $NAMESPACE, until the run ends"
        ;;&
    render) render ;;
    apply)
        [[ -n $dry_run ]] || kubectl get crd jobsets.jobset.x-k8s.io >/dev/null 2>&1 ||
            fail "the cluster has no JobSet, or cannot be reached; see jobset.sigs.k8s.io on installing it"
        manifest=$(render)
        [[ -z $dry_run ]] || printf '%s\n' "$manifest"
        run kubectl apply --namespace "$NAMESPACE" -f - <<<"$manifest"
        ;;
    logs)
        first="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
        run kubectl logs --namespace "$NAMESPACE" --selector="$first" --tail=-1 --follow
        ;;
    delete) run kubectl delete jobset --namespace "$NAMESPACE" "$NAME" ;;
esac
