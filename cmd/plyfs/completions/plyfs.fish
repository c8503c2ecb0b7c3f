# fish completion for plyfs. The program itself knows what can follow.
function __plyfs_complete
    set -l words (commandline -opc)
    set -l cur (commandline -ct)
    for line in (command $words[1] complete -- $words[2..-1] "$cur" 2>/dev/null)
        switch $line
            case :file
                __fish_complete_path (string replace -r '^--[^=]*=' '' -- "$cur")
            case :dir
                __fish_complete_directories (string replace -r '^--[^=]*=' '' -- "$cur") ''
            case '*'
                echo $line
        end
    end
end
complete -c plyfs -f -a '(__plyfs_complete)'
