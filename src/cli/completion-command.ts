// dimmer completion bash|zsh|fish: a script for the shell, made from the program's own commands and options.
//
// Nothing is read when Tab is pressed: words are in the script. Targets and live sources are completed up to their colon.

import type { Command } from 'commander';
import { DEMO_NAMES } from './demo-command.ts';
import { EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
import { LS_WHAT } from './ls-command.ts';
import { complain } from './options.ts';
import { POOL_VERBS } from './pool-command.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;
const TARGETS = ['block:', 'range:', 'node:', 'zone:', 'dimm:', 'size:'];
/** What may stand behind a command, besides its options. */
const WORDS: Readonly<Record<string, readonly string[]>> = {
  ls: LS_WHAT,
  completion: SHELLS,
  demo: DEMO_NAMES,
  pool: POOL_VERBS,
  check: TARGETS,
  explain: TARGETS,
  map: TARGETS,
};
/** Options that take a file or a directory. */
const FROM = `--from`;
const FILES = new Set([FROM, '--sysroot', '-s']);
/** What --from takes besides: machines that run (live-source.ts). */
const LIVE = ['host', 'qemu:', 'libvirt:', 'proxmox:'];

type Verb = {
  readonly name: string;
  readonly about: string;
  readonly options: readonly { flag: string; about: string }[];
  readonly words: readonly string[];
};

export function addCompletion(program: Command, io: Io, exit: (code: number) => void): void {
  program
    .command('completion')
    .description('Prints a completion script for a shell.')
    .argument('<shell>', SHELLS.join(', '))
    .addHelpText(
      'after',
      `
Examples:
  dimmer completion bash > ~/.local/share/bash-completion/completions/dimmer
  dimmer completion zsh  > "\${fpath[1]}/_dimmer"
  dimmer completion fish > ~/.config/fish/completions/dimmer.fish`,
    )
    .action((shell: string) => {
      const verbs = verbsOf(program);
      if (shell === 'bash') io.out(bash(verbs));
      else if (shell === 'zsh') io.out(`#compdef dimmer\nautoload -U +X bashcompinit && bashcompinit\n${bash(verbs)}`);
      else if (shell === 'fish') io.out(fish(verbs));
      else
        return exit(
          complain(io, { exit: EXIT.USAGE, sentence: `completion knows ${SHELLS.join(', ')}, not "${shell}"` }),
        );
      exit(EXIT.OK);
    });
}

function verbsOf(program: Command): Verb[] {
  return program.commands.map((c) => ({
    name: c.name(),
    about: c.description().replace(/\.$/, ''),
    options: [
      ...[...new Map([c, ...c.commands].flatMap((x) => x.options).map((o) => [o.flags, o])).values()].flatMap((o) =>
        [o.long, o.short].flatMap((flag) =>
          flag === undefined || flag === null ? [] : [{ flag, about: o.description }],
        ),
      ),
      { flag: '--help', about: 'help' },
    ],
    words: WORDS[c.name()] ?? [],
  }));
}

function bash(verbs: readonly Verb[]): string {
  const cases = verbs
    .map((v) => `    ${v.name}) words="${[...v.words, ...v.options.map((o) => o.flag)].join(' ')}" ;;`)
    .join('\n');
  return `# bash completion for dimmer; made by: dimmer completion bash
_dimmer() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" words
  COMPREPLY=()
  case "$prev" in
    --from) COMPREPLY=($(compgen -W "${LIVE.join(' ')}" -- "$cur") $(compgen -f -- "$cur"))
      case "\${COMPREPLY[0]}" in *:) compopt -o nospace 2>/dev/null ;; esac; return ;;
    ${[...FILES].filter((f) => f !== FROM).join('|')}) COMPREPLY=($(compgen -f -- "$cur")); return ;;
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${verbs.map((v) => v.name).join(' ')} --help --version" -- "$cur"))
    return
  fi
  case "\${COMP_WORDS[1]}" in
${cases}
    unpack) COMPREPLY=($(compgen -f -- "$cur")); return ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  case "\${COMPREPLY[0]}" in *:) compopt -o nospace 2>/dev/null ;; esac
}
complete -F _dimmer dimmer
`;
}

function fish(verbs: readonly Verb[]): string {
  const quote = (text: string): string => `'${text.replace(/'/g, "\\'")}'`;
  const live = (flag: string): string => (flag === FROM ? ` -a ${quote(LIVE.join(' '))}` : '');
  const lines = ['# fish completion for dimmer; made by: dimmer completion fish', 'complete -c dimmer -f'];
  for (const v of verbs) {
    lines.push(`complete -c dimmer -n __fish_use_subcommand -a ${v.name} -d ${quote(v.about)}`);
    const when = `-n '__fish_seen_subcommand_from ${v.name}'`;
    if (v.words.length > 0) lines.push(`complete -c dimmer ${when} -a ${quote(v.words.join(' '))}`);
    for (const { flag, about } of v.options) {
      const form = flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`;
      lines.push(
        `complete -c dimmer ${when} ${form}${FILES.has(flag) ? ` -r -F${live(flag)}` : ''} -d ${quote(about)}`,
      );
    }
  }
  return `${lines.join('\n')}\n`;
}
