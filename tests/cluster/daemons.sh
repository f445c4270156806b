# Who may do what, and the four programs with their settings. Sourced by cluster.sh.

NODE=kpf-node # as in manifests.yaml
NET=10.199.0  # pods are .10 and up
NODE_IP=$NET.1
API_PORT=16443 ETCD_PORT=12379 PEER_PORT=12380 # all on 127.0.0.1
KUBELET_PORT=10250 # its own, on NODE_IP
PKI=$RUN/pki
SOCKET=$RUN/containerd.sock
IMAGE=kpf.local/pod:1

# certificate NAME SUBJECT EXTENSION...: a key, and a certificate for it from our CA, which signs itself.
certificate() {
  local name=$1 subject=$2 signed=(-CA "$PKI/ca.crt" -CAkey "$PKI/ca.key") extensions=() extension
  shift 2
  [ "$name" != ca ] || signed=()
  for extension; do extensions+=(-addext "$extension"); done
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "$subject" "${signed[@]}" "${extensions[@]}" \
    -config <(printf '[req]\ndistinguished_name=name\n[name]\n') -keyout "$PKI/$name.key" -out "$PKI/$name.crt" 2>/dev/null
}

# Of the users, admin may do all by token, cert by certificate, and plugin by a token that a program tells; create-only, get-only, exec-only and viewer
# may do what manifests.yaml says; nobody knows wrong. They are the playground's, so that the same tests run on both.
credentials() {
  local leaf=basicConstraints=critical,CA:FALSE user users=(admin create-only get-only exec-only viewer wrong) cluster
  install -d -m 700 "$PKI"
  certificate ca /CN=kpf-cluster basicConstraints=critical,CA:TRUE keyUsage=critical,keyCertSign subjectKeyIdentifier=hash
  certificate apiserver /CN=kube-apiserver $leaf extendedKeyUsage=serverAuth subjectAltName=IP:127.0.0.1,DNS:localhost
  certificate node /CN=$NODE $leaf extendedKeyUsage=serverAuth "subjectAltName=IP:$NODE_IP"
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE" $leaf extendedKeyUsage=clientAuth
  certificate admin /O=system:masters/CN=admin $leaf extendedKeyUsage=clientAuth
  for user in admin,1,system:masters create-only,2 get-only,3 viewer,4 plugin,5,system:masters exec-only,6; do
    echo "$(openssl rand -hex 16),$user"
  done >"$PKI/tokens.csv"

  cluster="{name: kpf, cluster: {server: 'https://127.0.0.1:$API_PORT', certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}}"
  cat >"$PKI/kubelet.kubeconfig" <<YAML
{apiVersion: v1, kind: Config, clusters: [$cluster], current-context: kubelet,
 contexts: [{name: kubelet, context: {cluster: kpf, user: kubelet}}],
 users: [{name: kubelet, user: {client-certificate: $PKI/kubelet.crt, client-key: $PKI/kubelet.key}}]}
YAML
  (umask 077 && cat >"$RUN/kubeconfig.new") <<YAML
apiVersion: v1
kind: Config
clusters: [$cluster]
current-context: admin
contexts:
$(for user in "${users[@]}" cert plugin; do echo "- {name: $user, context: {cluster: kpf, user: $user, namespace: default}}"; done)
users:
- {name: cert, user: {client-certificate-data: $(base64 -w0 "$PKI/admin.crt"), client-key-data: $(base64 -w0 "$PKI/admin.key")}}
- {name: plugin, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: echo, interactiveMode: Never,
    args: ['{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"$(token_of plugin)"}}']}}}
$(for user in "${users[@]}"; do echo "- {name: $user, user: {token: $(token_of "$user")}}"; done)
YAML
  mv "$RUN/kubeconfig.new" "$RUN/kubeconfig" # only now is it complete
}

# token_of USER: who is not in the list gets one that nobody knows.
token_of() { awk -F, -v user="$1" '$2 == user {token = $1} END {print token ? token : "unknown"}' "$PKI/tokens.csv"; }

start_etcd() {
  local client=http://127.0.0.1:$ETCD_PORT peer=http://127.0.0.1:$PEER_PORT
  start etcd etcd --name kpf --data-dir "$RUN/etcd" --logger zap --log-level warn \
    --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "kpf=$peer"
}

start_apiserver() {
  # No admission by service account: without a controller manager there is none.
  start apiserver "$BUILT/kube-apiserver" --bind-address 127.0.0.1 --secure-port $API_PORT --insecure-port 0 \
    --etcd-servers "http://127.0.0.1:$ETCD_PORT" --authorization-mode Node,RBAC --disable-admission-plugins ServiceAccount \
    --client-ca-file "$PKI/ca.crt" --token-auth-file "$PKI/tokens.csv" \
    --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
    --kubelet-client-certificate "$PKI/admin.crt" --kubelet-client-key "$PKI/admin.key" \
    --kubelet-certificate-authority "$PKI/ca.crt" --kubelet-preferred-address-types InternalIP \
    --advertise-address $NODE_IP --endpoint-reconciler-type none --service-cluster-ip-range 10.198.0.0/16 \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$PKI/apiserver.crt" \
    --service-account-signing-key-file "$PKI/apiserver.key"
}
ready_apiserver() { await apiserver kubectl get --raw /readyz; }

start_containerd() {
  mkdir -p "$RUN/cni"
  cat >"$RUN/cni/kpf.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "kpf", "plugins": [{"type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$RUN/ipam", "ranges": [[{"subnet": "$NET.0/24", "rangeStart": "$NET.10", "gateway": "$NODE_IP"}]]}}]}
JSON
  # The pod's image can also be what holds a pod's namespaces: by itself it sleeps. OOM scores are never lowered, which takes CAP_SYS_RESOURCE.
  cat >"$RUN/containerd.toml" <<TOML
version = 2
root = "$RUN/images"
state = "$RUN/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"] # makes /opt/containerd
[grpc]
  address = "$SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$IMAGE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true # else in /run/netns
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$RUN/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$(can_overlay && echo overlayfs || echo native)"
TOML
  start containerd containerd --config "$RUN/containerd.toml"
}
ready_containerd() { await containerd ctr version; }

ctr() { command ctr --address "$SOCKET" --namespace k8s.io "$@"; }

import_image() { ctr images ls -q | grep -qx "$IMAGE" || ctr images import "$BUILT/image.tar" >/dev/null; }

# Kills the pods under the kubelet, which takes ten seconds to delete one. Even if containerd was killed, it finds them again.
end_containers() {
  local task
  [ -d "$RUN/containerd" ] && start_containerd && (ready_containerd) || return 0
  for task in $(ctr tasks ls -q); do
    ctr tasks rm --force "$task" >/dev/null 2>&1 || true
    rm -f /var/lib/cni/results/*-"$task"-*
  done
}

# A pod's shim goes with its last container, unless containerd 1.6 has two that delete the same one.
end_shims() {
  local file shim
  for file in $(grep -lzxF "$SOCKET" /proc/[0-9]*/cmdline 2>/dev/null); do
    mapfile -d '' -t shim <"$file" # containerd-shim-runc-v2 -namespace NAMESPACE -id ID -address SOCKET
    kill -KILL "${file//[^0-9]/}" 2>/dev/null || true
    rm -f "/run/containerd/s/$(printf %s "$SOCKET/${shim[2]}/${shim[4]}" | sha256sum | cut -d' ' -f1)"
  done
}

start_kubelet() {
  cat >"$RUN/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
tlsCertFile: $PKI/node.crt
tlsPrivateKeyFile: $PKI/node.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: AlwaysAllow} # whoever has a certificate of our CA
readOnlyPort: 0
healthzPort: 0
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failSwapOn: false
makeIPTablesUtilChains: false
resolvConf: ""
nodeStatusUpdateFrequency: 1s
volumePluginDir: $RUN/kubelet/plugins
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100 # a collected image can't be pulled again
featureGates: {DevicePlugins: false} # its socket is outside the root directory
YAML
  start kubelet "$BUILT/kubelet" --config "$RUN/kubelet.yaml" --kubeconfig "$PKI/kubelet.kubeconfig" --root-dir "$RUN/kubelet" \
    --cert-dir "$RUN/kubelet/pki" --hostname-override $NODE --node-ip $NODE_IP --oom-score-adj 0 \
    --container-runtime remote --container-runtime-endpoint "unix://$SOCKET"
}
ready_kubelet() { await kubelet kubectl get --raw "/api/v1/nodes/$NODE/proxy/healthz"; } # through the API server
