# Completion of kpf in bash, 3.2 and later. kpf itself says what may come next.
_kpf() {
    local line=${COMP_LINE:0:COMP_POINT} words current before break unfinished=1 candidate
    IFS=$' \t\n' read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[${#words[@]} - 1]}
    # bash replaces only what follows the last of its word breaks
    before=
    for break in = : @; do
        if [[ $COMP_WORDBREAKS == *"$break"* && $current == *"$break"* ]]; then
            candidate=${current%"${current##*"$break"}"}
            [[ ${#candidate} -gt ${#before} ]] && before=$candidate
        fi
    done
    COMPREPLY=()
    while IFS= read -r candidate; do
        if [[ $candidate == //files ]]; then
            compopt -o filenames 2>/dev/null
            while IFS= read -r candidate; do
                COMPREPLY+=("$candidate")
            done < <(compgen -f -- "${current#"$before"}")
            return
        fi
        [[ $candidate == *[/:=] ]] || unfinished=
        COMPREPLY+=("${candidate#"$before"}")
    done < <("$1" complete bash -- "${words[@]}" 2>/dev/null)
    [[ -z $unfinished ]] || compopt -o nospace 2>/dev/null
}
complete -F _kpf kpf
