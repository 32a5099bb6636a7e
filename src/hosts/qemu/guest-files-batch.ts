// Guest files in one go: a command in the guest that prints many small files and directories, and the reading of what it printed.
//
//   stdin    /sys/devices/system/memory            stdout   /sys/devices/system/memory/memory0       names: dir/*
//            (an empty line)                                 ...
//            /proc/meminfo                                   (an empty line)
//            /sys/.../memory0/state                          /proc/meminfo:MemTotal:  2030192 kB      files: grep -H ''
//                                                            /sys/.../memory0/state:online
//                                                   stderr   grep: /sys/x: No such file or directory
//                                                   last     the line END; without it, it is not whole
//
// Every file that a capture reads is lines of text, each with its newline; "grep -H ''" prints them with their file's name before
// each, hundreds of files in one process. It says the same on GNU and busybox, as do xargs, printf and the shell's own
// patterns, which list a directory without starting a process. The agent keeps 16 MiB of output and versions before 7.2.20
// tell wrongly whether something was cut: hence END.
//
// Measured under software emulation, 2 GiB in 20 blocks: an observation takes 0.05 to 0.1 s in one command, and 0.5 to 0.9 s by the
// agent's file verbs, three requests a file.
// Spec 7.3; QEMU 7.2 qga/commands.c (GUEST_EXEC_MAX_OUTPUT).

import type { ReadFailure, Soon, TextRead } from '#capture/gather';

/** Files and directories of one command; 2000 sysfs files are some 200 KiB of output. */
export const BATCH_MAX = 2000;

const END = 'END-of-dimmer';

const SETUP = 'LC_ALL=C; export LC_ALL';

/** Reads the names on its standard input, see above. */
export const BATCH_SCRIPT = `${SETUP}
while IFS= read -r d; do [ -n "$d" ] || break; printf '%s\\n' "$d"/*; done
echo
xargs grep -H ''
echo ${END}`;

/** What an Observation needs, by patterns: one command whatever blocks there are. */
export const OBSERVE_SCRIPT = `${SETUP}
m=/sys/devices/system/memory n=/sys/devices/system/node h=hugepages/hugepages-*
printf '%s\\n' $m/memory*/node*
echo
printf '%s\\n' $m/block_size_bytes $m/auto_online_blocks $m/memory*/state $m/memory*/valid_zones \\
  $n/node*/$h/nr_hugepages $n/node*/$h/free_hugepages /sys/kernel/mm/$h/nr_hugepages /sys/kernel/mm/$h/free_hugepages \\
  /proc/version /proc/meminfo /proc/buddyinfo | xargs grep -H ''
echo ${END}`;

export const batchInput = ({ files, directories }: Soon): string =>
  [...directories, '', ...files].map((line) => `${line}\n`).join('');

/** A name that neither xargs nor a pattern of the shell takes for something else. */
export const isPlainName = (path: string): boolean => /^\/[\w./-]+$/.test(path);

export type Batch = {
  /** Paths that patterns found, patterns without a match left out. */
  readonly names: readonly string[];
  /** Text by path, of every file that printed something. */
  readonly texts: ReadonlyMap<string, string>;
  /** Why a file could not be read. A file in neither map was empty. */
  readonly failures: ReadonlyMap<string, ReadFailure>;
};

/** @returns undefined when the output is not whole */
export function parseBatch(out: string, errors: string): Batch | undefined {
  if (!out.endsWith(`\n${END}\n`)) return undefined;
  const lines = out.slice(0, -END.length - 2).split('\n');
  const split = lines.indexOf('');
  if (split < 0) return undefined;
  const names = lines.slice(0, split).filter((path) => !path.includes('*'));
  const parts = new Map<string, string[]>();
  for (const line of lines.slice(split + 1)) {
    const colon = line.indexOf(':');
    if (colon < 0) continue;
    const path = line.slice(0, colon);
    const text = line.slice(colon + 1);
    const known = parts.get(path);
    if (known === undefined) parts.set(path, [text]);
    else known.push(text);
  }
  const texts = new Map([...parts].map(([path, text]) => [path, `${text.join('\n')}\n`]));
  const failures = new Map<string, ReadFailure>();
  for (const line of errors.split('\n')) {
    const said = /^(?:\S*grep): (\/[^:]*): (.*)$/.exec(line);
    if (said !== null) failures.set(said[1], failureOfWords(said[2]));
  }
  return { names, texts, failures };
}

/** What a batch says of a file that was asked for. A file that failed in the middle is not taken for whole. */
export function readOf(batch: Batch, path: string): TextRead {
  return batch.failures.get(path) ?? { kind: 'text', text: batch.texts.get(path) ?? '' };
}

function failureOfWords(words: string): ReadFailure {
  if (/^(No such (file|device)|Not a directory|Is a directory|Operation not supported)/.test(words))
    return { kind: 'absent', detail: 'no such file' };
  if (/^(Permission denied|Operation not permitted)/.test(words))
    return { kind: 'denied', detail: `reading it is refused in the guest (${words})` };
  return { kind: 'corrupt', detail: `reading it failed in the guest (${words})` };
}
