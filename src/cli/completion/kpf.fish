# Completion of kpf in fish. kpf itself says what may come next.
function __kpf_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines (command $words[1] complete fish -- $words "$current" 2>/dev/null)
    if test "$lines" = //files
        __fish_complete_path "$current"
    else
        printf '%s\n' $lines
    end
end
complete -c kpf -f -a '(__kpf_complete)'
