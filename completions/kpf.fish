# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kpf_global_optspecs
    string join \n n/namespace= context= kubeconfig= v/v= cluster= user= s/server= token= username= password= as= as-group= as-uid= as-user-extra= certificate-authority= client-certificate= client-key= tls-server-name= insecure-skip-tls-verify= request-timeout= proxy-url= cache-dir= disable-compression= kuberc= log-flush-frequency= match-server-version= profile= profile-output= vmodule= warnings-as-errors= h/help V/version
end

function __fish_kpf_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kpf_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kpf_using_subcommand
    set -l cmd (__fish_kpf_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kpf -n "__fish_kpf_needs_command" -s n -l namespace -d 'Namespace to look in [default: the context\'s]' -r
complete -c kpf -n "__fish_kpf_needs_command" -l context -d 'Context of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_needs_command" -l kubeconfig -d 'Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]' -r -F
complete -c kpf -n "__fish_kpf_needs_command" -s v -l v -d 'How much to log to stderr, from 0 to 10' -r
complete -c kpf -n "__fish_kpf_needs_command" -l cluster -d 'Cluster of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_needs_command" -l user -d 'User of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_needs_command" -s s -l server -d 'Address and port of the API server' -r
complete -c kpf -n "__fish_kpf_needs_command" -l token -d 'Bearer token' -r
complete -c kpf -n "__fish_kpf_needs_command" -l username -d 'User name for basic authentication' -r
complete -c kpf -n "__fish_kpf_needs_command" -l password -d 'Password for basic authentication' -r
complete -c kpf -n "__fish_kpf_needs_command" -l as -d 'User to impersonate' -r
complete -c kpf -n "__fish_kpf_needs_command" -l as-group -d 'Group to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_needs_command" -l as-uid -d 'UID to impersonate' -r
complete -c kpf -n "__fish_kpf_needs_command" -l as-user-extra -d 'Extra field to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_needs_command" -l certificate-authority -d 'File with the certificates that the server\'s is checked against' -r -F
complete -c kpf -n "__fish_kpf_needs_command" -l client-certificate -d 'File with the client\'s certificate' -r -F
complete -c kpf -n "__fish_kpf_needs_command" -l client-key -d 'File with the client\'s key' -r -F
complete -c kpf -n "__fish_kpf_needs_command" -l tls-server-name -d 'Name that the server\'s certificate must have [default: the host of its address]' -r
complete -c kpf -n "__fish_kpf_needs_command" -l insecure-skip-tls-verify -d 'Do not check the server\'s certificate; insecure' -r
complete -c kpf -n "__fish_kpf_needs_command" -l request-timeout -d 'How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward' -r
complete -c kpf -n "__fish_kpf_needs_command" -l proxy-url -d 'Proxy to the API server, http, https or socks5 [default: the kubeconfig\'s, then HTTPS_PROXY]' -r
complete -c kpf -n "__fish_kpf_needs_command" -l cache-dir -r
complete -c kpf -n "__fish_kpf_needs_command" -l disable-compression -r
complete -c kpf -n "__fish_kpf_needs_command" -l kuberc -r
complete -c kpf -n "__fish_kpf_needs_command" -l log-flush-frequency -r
complete -c kpf -n "__fish_kpf_needs_command" -l match-server-version -r
complete -c kpf -n "__fish_kpf_needs_command" -l profile -r
complete -c kpf -n "__fish_kpf_needs_command" -l profile-output -r
complete -c kpf -n "__fish_kpf_needs_command" -l vmodule -r
complete -c kpf -n "__fish_kpf_needs_command" -l warnings-as-errors -r
complete -c kpf -n "__fish_kpf_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kpf -n "__fish_kpf_needs_command" -s V -l version -d 'Print version'
complete -c kpf -n "__fish_kpf_needs_command" -f -a "forward" -d 'Forward local ports to pods'
complete -c kpf -n "__fish_kpf_needs_command" -f -a "port-forward" -d 'Forward local ports to pods'
complete -c kpf -n "__fish_kpf_needs_command" -f -a "connect" -d 'Attach stdin and stdout to one port of a pod, for ssh\'s ProxyCommand'
complete -c kpf -n "__fish_kpf_needs_command" -f -a "exec" -d 'Run a command in a container of a pod'
complete -c kpf -n "__fish_kpf_needs_command" -f -a "gateway" -d 'Serve SSH: sessions in pods, and jumps to them, through one port'
complete -c kpf -n "__fish_kpf_needs_command" -f -a "ssh-config" -d 'Print or install what ssh, scp and rsync need to reach pods'
complete -c kpf -n "__fish_kpf_needs_command" -f -a "known-hosts" -d 'The pinned host keys of a pod, for ssh\'s KnownHostsCommand'
complete -c kpf -n "__fish_kpf_needs_command" -f -a "completions" -d 'Print the completion script of a shell'
complete -c kpf -n "__fish_kpf_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kpf -n "__fish_kpf_using_subcommand forward" -s f -l filename -d 'File with the forwards that have names, - for stdin; all of it if no @NAME is given [default: ~/.config/kpf/forwards.yaml]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l address -d 'Addresses to listen on, comma separated: IP addresses, or localhost for 127.0.0.1 and ::1' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -s o -l output -d 'What stdout is: json for one event per line' -r -f -a "json\t'JSON, one value per line'"
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l port-file -d 'Write the local ports to this file once all are ready, one per line in the order of the command line; it is removed at the end' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l ready-file -d 'Make this file once all is ready; it is removed at the end' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l stop -d 'End the forward in the background that has this number, or all' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l balance -d 'Spread connections over all ready pods of a service or workload: in turn, or to the one with the least open ones' -r -f -a "round-robin\t'In turn'
least\t'To the pod with the fewest'"
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l hold -d 'How long a connection waits while there is no pod or no way to it' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l half-close-grace -d 'How long the pod must be silent before it is told that the local side has sent all; 0 tells it at once, as kubectl does, and cuts off what it still sends' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l max-tunnels -d 'Tunnels to one pod: connections have one each, and share beyond that' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l retry-max-elapsed -d 'Give up when a lost connection has not come back for so long; 0 never does' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l via -d 'How streams are made: portforward, or exec, by a program in a container; auto takes exec where port-forward is forbidden or impossible' -r -f -a "auto\t'Port-forward where it can be had'
portforward\t'The API\'s own way'
exec\t'A command'"
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l via-command -d 'Command whose stdin and stdout are the stream, run in the container; implies --via exec' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -s c -l container -d 'Container that exec makes streams in [default: as `kpf exec` chooses it]' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l pod-running-timeout -d 'How long to wait for a pod that is ready, as in 30s or 1m30s' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l transport -d 'The protocol to the cluster: websocket, spdy, or websocket first and spdy if that is refused' -r -f -a "auto\t'WebSocket, then SPDY if that is refused'
websocket\t'SPDY inside a WebSocket'
spdy\t'SPDY on the upgraded connection itself'"
complete -c kpf -n "__fish_kpf_using_subcommand forward" -s n -l namespace -d 'Namespace to look in [default: the context\'s]' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l context -d 'Context of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l kubeconfig -d 'Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand forward" -s v -l v -d 'How much to log to stderr, from 0 to 10' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l cluster -d 'Cluster of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l user -d 'User of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -s s -l server -d 'Address and port of the API server' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l token -d 'Bearer token' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l username -d 'User name for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l password -d 'Password for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l as -d 'User to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l as-group -d 'Group to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l as-uid -d 'UID to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l as-user-extra -d 'Extra field to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l certificate-authority -d 'File with the certificates that the server\'s is checked against' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l client-certificate -d 'File with the client\'s certificate' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l client-key -d 'File with the client\'s key' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l tls-server-name -d 'Name that the server\'s certificate must have [default: the host of its address]' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l insecure-skip-tls-verify -d 'Do not check the server\'s certificate; insecure' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l request-timeout -d 'How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l proxy-url -d 'Proxy to the API server, http, https or socks5 [default: the kubeconfig\'s, then HTTPS_PROXY]' -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l cache-dir -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l disable-compression -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l kuberc -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l log-flush-frequency -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l match-server-version -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l profile -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l profile-output -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l vmodule -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l warnings-as-errors -r
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l allow-partial -d 'Go on if some of the ports can\'t be bound, as kubectl does'
complete -c kpf -n "__fish_kpf_using_subcommand forward" -s q -l quiet -d 'Print nothing but errors'
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l background -d 'Return once all is ready, and go on forwarding; ended by --stop'
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l list -d 'List the forwards that run in the background'
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l in-background -d 'This is the process in the background'
complete -c kpf -n "__fish_kpf_using_subcommand forward" -l no-reconnect -d 'End when the pod or the connection to it is lost, as kubectl does'
complete -c kpf -n "__fish_kpf_using_subcommand forward" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -s f -l filename -d 'File with the forwards that have names, - for stdin; all of it if no @NAME is given [default: ~/.config/kpf/forwards.yaml]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l address -d 'Addresses to listen on, comma separated: IP addresses, or localhost for 127.0.0.1 and ::1' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -s o -l output -d 'What stdout is: json for one event per line' -r -f -a "json\t'JSON, one value per line'"
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l port-file -d 'Write the local ports to this file once all are ready, one per line in the order of the command line; it is removed at the end' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l ready-file -d 'Make this file once all is ready; it is removed at the end' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l stop -d 'End the forward in the background that has this number, or all' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l balance -d 'Spread connections over all ready pods of a service or workload: in turn, or to the one with the least open ones' -r -f -a "round-robin\t'In turn'
least\t'To the pod with the fewest'"
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l hold -d 'How long a connection waits while there is no pod or no way to it' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l half-close-grace -d 'How long the pod must be silent before it is told that the local side has sent all; 0 tells it at once, as kubectl does, and cuts off what it still sends' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l max-tunnels -d 'Tunnels to one pod: connections have one each, and share beyond that' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l retry-max-elapsed -d 'Give up when a lost connection has not come back for so long; 0 never does' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l via -d 'How streams are made: portforward, or exec, by a program in a container; auto takes exec where port-forward is forbidden or impossible' -r -f -a "auto\t'Port-forward where it can be had'
portforward\t'The API\'s own way'
exec\t'A command'"
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l via-command -d 'Command whose stdin and stdout are the stream, run in the container; implies --via exec' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -s c -l container -d 'Container that exec makes streams in [default: as `kpf exec` chooses it]' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l pod-running-timeout -d 'How long to wait for a pod that is ready, as in 30s or 1m30s' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l transport -d 'The protocol to the cluster: websocket, spdy, or websocket first and spdy if that is refused' -r -f -a "auto\t'WebSocket, then SPDY if that is refused'
websocket\t'SPDY inside a WebSocket'
spdy\t'SPDY on the upgraded connection itself'"
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -s n -l namespace -d 'Namespace to look in [default: the context\'s]' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l context -d 'Context of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l kubeconfig -d 'Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -s v -l v -d 'How much to log to stderr, from 0 to 10' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l cluster -d 'Cluster of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l user -d 'User of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -s s -l server -d 'Address and port of the API server' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l token -d 'Bearer token' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l username -d 'User name for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l password -d 'Password for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l as -d 'User to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l as-group -d 'Group to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l as-uid -d 'UID to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l as-user-extra -d 'Extra field to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l certificate-authority -d 'File with the certificates that the server\'s is checked against' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l client-certificate -d 'File with the client\'s certificate' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l client-key -d 'File with the client\'s key' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l tls-server-name -d 'Name that the server\'s certificate must have [default: the host of its address]' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l insecure-skip-tls-verify -d 'Do not check the server\'s certificate; insecure' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l request-timeout -d 'How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l proxy-url -d 'Proxy to the API server, http, https or socks5 [default: the kubeconfig\'s, then HTTPS_PROXY]' -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l cache-dir -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l disable-compression -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l kuberc -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l log-flush-frequency -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l match-server-version -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l profile -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l profile-output -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l vmodule -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l warnings-as-errors -r
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l allow-partial -d 'Go on if some of the ports can\'t be bound, as kubectl does'
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -s q -l quiet -d 'Print nothing but errors'
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l background -d 'Return once all is ready, and go on forwarding; ended by --stop'
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l list -d 'List the forwards that run in the background'
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l in-background -d 'This is the process in the background'
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -l no-reconnect -d 'End when the pod or the connection to it is lost, as kubectl does'
complete -c kpf -n "__fish_kpf_using_subcommand port-forward" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l alias -d 'A name for a context, to be used in OBJECT.NAMESPACE.ALIAS.kpf; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l via -d 'How streams are made: portforward, or exec, by a program in a container; auto takes exec where port-forward is forbidden or impossible' -r -f -a "auto\t'Port-forward where it can be had'
portforward\t'The API\'s own way'
exec\t'A command'"
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l via-command -d 'Command whose stdin and stdout are the stream, run in the container; implies --via exec' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -s c -l container -d 'Container that exec makes streams in [default: as `kpf exec` chooses it]' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l pod-running-timeout -d 'How long to wait for a pod that is ready, as in 30s or 1m30s' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l transport -d 'The protocol to the cluster: websocket, spdy, or websocket first and spdy if that is refused' -r -f -a "auto\t'WebSocket, then SPDY if that is refused'
websocket\t'SPDY inside a WebSocket'
spdy\t'SPDY on the upgraded connection itself'"
complete -c kpf -n "__fish_kpf_using_subcommand connect" -s n -l namespace -d 'Namespace to look in [default: the context\'s]' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l context -d 'Context of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l kubeconfig -d 'Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand connect" -s v -l v -d 'How much to log to stderr, from 0 to 10' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l cluster -d 'Cluster of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l user -d 'User of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -s s -l server -d 'Address and port of the API server' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l token -d 'Bearer token' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l username -d 'User name for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l password -d 'Password for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l as -d 'User to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l as-group -d 'Group to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l as-uid -d 'UID to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l as-user-extra -d 'Extra field to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l certificate-authority -d 'File with the certificates that the server\'s is checked against' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l client-certificate -d 'File with the client\'s certificate' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l client-key -d 'File with the client\'s key' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l tls-server-name -d 'Name that the server\'s certificate must have [default: the host of its address]' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l insecure-skip-tls-verify -d 'Do not check the server\'s certificate; insecure' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l request-timeout -d 'How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l proxy-url -d 'Proxy to the API server, http, https or socks5 [default: the kubeconfig\'s, then HTTPS_PROXY]' -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l cache-dir -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l disable-compression -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l kuberc -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l log-flush-frequency -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l match-server-version -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l profile -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l profile-output -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l vmodule -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l warnings-as-errors -r
complete -c kpf -n "__fish_kpf_using_subcommand connect" -l ssh -d 'This is ssh\'s ProxyCommand: note for `kpf known-hosts` which pod is reached'
complete -c kpf -n "__fish_kpf_using_subcommand connect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s f -l filename -d 'Instead of TARGET, a manifest whose object leads to the pod: a file, a folder with one, or -' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s c -l container -d 'Container to run it in, also an init or ephemeral one [default: the annotation kubectl.kubernetes.io/default-container names it, else the first]' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s i -l stdin -d 'Pass stdin to the command' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s o -l output -d 'What stdout is: json for one event per line, the command\'s output among them' -r -f -a "json\t'JSON, one value per line'"
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s t -l tty -d 'Run it in a terminal, if stdin is one; only with -i' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s q -l quiet -d 'Say nothing about the choice of a container, nor about a terminal that can\'t be used' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l pod-running-timeout -d 'How long to wait for a pod that is ready, as in 30s or 1m30s' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l transport -d 'The protocol to the cluster: websocket, spdy, or websocket first and spdy if that is refused' -r -f -a "auto\t'WebSocket, then SPDY if that is refused'
websocket\t'SPDY inside a WebSocket'
spdy\t'SPDY on the upgraded connection itself'"
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s n -l namespace -d 'Namespace to look in [default: the context\'s]' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l context -d 'Context of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l kubeconfig -d 'Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s v -l v -d 'How much to log to stderr, from 0 to 10' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l cluster -d 'Cluster of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l user -d 'User of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s s -l server -d 'Address and port of the API server' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l token -d 'Bearer token' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l username -d 'User name for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l password -d 'Password for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l as -d 'User to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l as-group -d 'Group to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l as-uid -d 'UID to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l as-user-extra -d 'Extra field to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l certificate-authority -d 'File with the certificates that the server\'s is checked against' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l client-certificate -d 'File with the client\'s certificate' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l client-key -d 'File with the client\'s key' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l tls-server-name -d 'Name that the server\'s certificate must have [default: the host of its address]' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l insecure-skip-tls-verify -d 'Do not check the server\'s certificate; insecure' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l request-timeout -d 'How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l proxy-url -d 'Proxy to the API server, http, https or socks5 [default: the kubeconfig\'s, then HTTPS_PROXY]' -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l cache-dir -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l disable-compression -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l kuberc -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l log-flush-frequency -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l match-server-version -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l profile -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l profile-output -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l vmodule -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l warnings-as-errors -r
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l verify -d 'Fail unless all of stdin has arrived; only with -i and without -t, and with sh, tee and wc in the container'
complete -c kpf -n "__fish_kpf_using_subcommand exec" -l hang-up -d 'End the command by SIGHUP if kpf ends before it, by a signal or a lost connection; needs sh in the container'
complete -c kpf -n "__fish_kpf_using_subcommand exec" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l listen -d 'Address and port to listen on; port 0 takes a free one' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l pod-running-timeout -d 'How long to wait for a pod that is ready, as in 30s or 1m30s' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l transport -d 'The protocol to the cluster: websocket, spdy, or websocket first and spdy if that is refused' -r -f -a "auto\t'WebSocket, then SPDY if that is refused'
websocket\t'SPDY inside a WebSocket'
spdy\t'SPDY on the upgraded connection itself'"
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -s n -l namespace -d 'Namespace to look in [default: the context\'s]' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l context -d 'Context of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l kubeconfig -d 'Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -s v -l v -d 'How much to log to stderr, from 0 to 10' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l cluster -d 'Cluster of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l user -d 'User of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -s s -l server -d 'Address and port of the API server' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l token -d 'Bearer token' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l username -d 'User name for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l password -d 'Password for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l as -d 'User to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l as-group -d 'Group to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l as-uid -d 'UID to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l as-user-extra -d 'Extra field to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l certificate-authority -d 'File with the certificates that the server\'s is checked against' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l client-certificate -d 'File with the client\'s certificate' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l client-key -d 'File with the client\'s key' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l tls-server-name -d 'Name that the server\'s certificate must have [default: the host of its address]' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l insecure-skip-tls-verify -d 'Do not check the server\'s certificate; insecure' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l request-timeout -d 'How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l proxy-url -d 'Proxy to the API server, http, https or socks5 [default: the kubeconfig\'s, then HTTPS_PROXY]' -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l cache-dir -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l disable-compression -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l kuberc -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l log-flush-frequency -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l match-server-version -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l profile -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l profile-output -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l vmodule -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -l warnings-as-errors -r
complete -c kpf -n "__fish_kpf_using_subcommand gateway" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -s f -l file -d 'ssh\'s configuration [default: ~/.ssh/config]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l alias -d 'A name for a context, to be used in OBJECT.NAMESPACE.ALIAS.kpf; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l gateway -d 'Reach pods through this gateway, [USER@]HOST[:PORT], instead of by kpf itself' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -s n -l namespace -d 'Namespace to look in [default: the context\'s]' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l context -d 'Context of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l kubeconfig -d 'Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -s v -l v -d 'How much to log to stderr, from 0 to 10' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l cluster -d 'Cluster of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l user -d 'User of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -s s -l server -d 'Address and port of the API server' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l token -d 'Bearer token' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l username -d 'User name for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l password -d 'Password for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l as -d 'User to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l as-group -d 'Group to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l as-uid -d 'UID to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l as-user-extra -d 'Extra field to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l certificate-authority -d 'File with the certificates that the server\'s is checked against' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l client-certificate -d 'File with the client\'s certificate' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l client-key -d 'File with the client\'s key' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l tls-server-name -d 'Name that the server\'s certificate must have [default: the host of its address]' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l insecure-skip-tls-verify -d 'Do not check the server\'s certificate; insecure' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l request-timeout -d 'How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l proxy-url -d 'Proxy to the API server, http, https or socks5 [default: the kubeconfig\'s, then HTTPS_PROXY]' -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l cache-dir -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l disable-compression -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l kuberc -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l log-flush-frequency -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l match-server-version -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l profile -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l profile-output -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l vmodule -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l warnings-as-errors -r
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l write -d 'Put it into ssh\'s configuration, or bring it up to date there; the file\'s last state is kept beside it'
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l remove -d 'Take it out of ssh\'s configuration'
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -l dry-run -d 'Only show the file as --write or --remove would leave it'
complete -c kpf -n "__fish_kpf_using_subcommand ssh-config" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -s n -l namespace -d 'Namespace to look in [default: the context\'s]' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l context -d 'Context of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l kubeconfig -d 'Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -s v -l v -d 'How much to log to stderr, from 0 to 10' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l cluster -d 'Cluster of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l user -d 'User of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -s s -l server -d 'Address and port of the API server' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l token -d 'Bearer token' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l username -d 'User name for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l password -d 'Password for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l as -d 'User to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l as-group -d 'Group to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l as-uid -d 'UID to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l as-user-extra -d 'Extra field to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l certificate-authority -d 'File with the certificates that the server\'s is checked against' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l client-certificate -d 'File with the client\'s certificate' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l client-key -d 'File with the client\'s key' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l tls-server-name -d 'Name that the server\'s certificate must have [default: the host of its address]' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l insecure-skip-tls-verify -d 'Do not check the server\'s certificate; insecure' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l request-timeout -d 'How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l proxy-url -d 'Proxy to the API server, http, https or socks5 [default: the kubeconfig\'s, then HTTPS_PROXY]' -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l cache-dir -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l disable-compression -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l kuberc -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l log-flush-frequency -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l match-server-version -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l profile -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l profile-output -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l vmodule -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -l warnings-as-errors -r
complete -c kpf -n "__fish_kpf_using_subcommand known-hosts" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kpf -n "__fish_kpf_using_subcommand completions" -s n -l namespace -d 'Namespace to look in [default: the context\'s]' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l context -d 'Context of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l kubeconfig -d 'Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand completions" -s v -l v -d 'How much to log to stderr, from 0 to 10' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l cluster -d 'Cluster of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l user -d 'User of the kubeconfig to use' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -s s -l server -d 'Address and port of the API server' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l token -d 'Bearer token' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l username -d 'User name for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l password -d 'Password for basic authentication' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l as -d 'User to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l as-group -d 'Group to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l as-uid -d 'UID to impersonate' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l as-user-extra -d 'Extra field to impersonate; may be given more than once' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l certificate-authority -d 'File with the certificates that the server\'s is checked against' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l client-certificate -d 'File with the client\'s certificate' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l client-key -d 'File with the client\'s key' -r -F
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l tls-server-name -d 'Name that the server\'s certificate must have [default: the host of its address]' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l insecure-skip-tls-verify -d 'Do not check the server\'s certificate; insecure' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l request-timeout -d 'How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l proxy-url -d 'Proxy to the API server, http, https or socks5 [default: the kubeconfig\'s, then HTTPS_PROXY]' -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l cache-dir -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l disable-compression -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l kuberc -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l log-flush-frequency -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l match-server-version -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l profile -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l profile-output -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l vmodule -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -l warnings-as-errors -r
complete -c kpf -n "__fish_kpf_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kpf -n "__fish_kpf_using_subcommand help; and not __fish_seen_subcommand_from forward connect exec gateway ssh-config known-hosts completions help" -f -a "forward" -d 'Forward local ports to pods'
complete -c kpf -n "__fish_kpf_using_subcommand help; and not __fish_seen_subcommand_from forward connect exec gateway ssh-config known-hosts completions help" -f -a "connect" -d 'Attach stdin and stdout to one port of a pod, for ssh\'s ProxyCommand'
complete -c kpf -n "__fish_kpf_using_subcommand help; and not __fish_seen_subcommand_from forward connect exec gateway ssh-config known-hosts completions help" -f -a "exec" -d 'Run a command in a container of a pod'
complete -c kpf -n "__fish_kpf_using_subcommand help; and not __fish_seen_subcommand_from forward connect exec gateway ssh-config known-hosts completions help" -f -a "gateway" -d 'Serve SSH: sessions in pods, and jumps to them, through one port'
complete -c kpf -n "__fish_kpf_using_subcommand help; and not __fish_seen_subcommand_from forward connect exec gateway ssh-config known-hosts completions help" -f -a "ssh-config" -d 'Print or install what ssh, scp and rsync need to reach pods'
complete -c kpf -n "__fish_kpf_using_subcommand help; and not __fish_seen_subcommand_from forward connect exec gateway ssh-config known-hosts completions help" -f -a "known-hosts" -d 'The pinned host keys of a pod, for ssh\'s KnownHostsCommand'
complete -c kpf -n "__fish_kpf_using_subcommand help; and not __fish_seen_subcommand_from forward connect exec gateway ssh-config known-hosts completions help" -f -a "completions" -d 'Print the completion script of a shell'
complete -c kpf -n "__fish_kpf_using_subcommand help; and not __fish_seen_subcommand_from forward connect exec gateway ssh-config known-hosts completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
