# bash completion for plyfs. The program itself knows what can follow.
_plyfs() {
	local line cur IFS=$'\n'
	# bash takes a word apart at "=" and ":"; the answer is about the whole one.
	local words=() i
	for ((i = 1; i <= COMP_CWORD; i++)); do
		if ((i > 1)) && [[ ${COMP_WORDS[i]} == [=:]* || ${COMP_WORDS[i - 1]} == *[=:] ]] && ((${#words[@]})); then
			words[-1]+=${COMP_WORDS[i]}
		else
			words+=("${COMP_WORDS[i]}")
		fi
	done
	cur=${words[-1]}
	COMPREPLY=()
	for line in $("$1" complete -- "${words[@]}" 2>/dev/null); do
		case $line in
		:file) compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- "${cur##*=}")) ;;
		:dir) compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -d -- "${cur##*=}")) ;;
		*)
			line=${line%%$'\t'*}
			[[ $line != *= && $line != *, ]] || compopt -o nospace 2>/dev/null
			# What stands before the last "=" or ":" is on the line already.
			[[ $cur != *[=:]* ]] || line=${line#"${cur%"${cur##*[=:]}"}"}
			COMPREPLY+=("$line")
			;;
		esac
	done
}
complete -F _plyfs plyfs
