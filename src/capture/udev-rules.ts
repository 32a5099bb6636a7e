// udev rules about memory: what a distribution or an administrator lets happen to a block as it appears.
//
//   /etc/udev/rules.d      the administrator's    a file here hides the file of the same name in the others,
//   /run/udev/rules.d      of this boot           an empty one or a link to /dev/null included
//   /usr/lib/udev/rules.d  the distribution's; /lib is the same where the two are not one
//
//   SUBSYSTEM=="memory", ACTION=="add", ATTR{state}=="offline", ATTR{state}="online_movable"        kept
//   SUBSYSTEM!="memory", GOTO="end"       ENV{.state}="online"       ATTR{state}="$env{.state}"     kept
//   everything else, comments, and every file that does not name the memory subsystem               never in a capture
//
// A line that ends in a backslash goes on in the next one; the two are one rule. Source: udev(7), systemd's
// src/udev/udev-rules.c: udev_rules_parse_file().

export const UDEV_DIRECTORIES: readonly string[] = [
  '/etc/udev/rules.d',
  '/run/udev/rules.d',
  '/usr/lib/udev/rules.d',
  '/lib/udev/rules.d',
];

const RULES_FILE = /^(\/(?:etc|run|usr\/lib|lib)\/udev\/rules\.d)\/([!-.0-~]+\.rules)$/;

/** Directory and name of a rules file; undefined for any other path. */
export function udevRulesFile(path: string): { readonly directory: string; readonly name: string } | undefined {
  const m = RULES_FILE.exec(path);
  return m === null ? undefined : { directory: m[1] as string, name: m[2] as string };
}

const NAMES_MEMORY = /\bSUBSYSTEMS?\s*[!=]=\s*"memory"/;
const NAMES_ANOTHER = /\bSUBSYSTEMS?\s*==\s*"(?!memory")/;
const SETS_STATE = /\b(?:ATTR\{(?:state|online)\}|ENV\{\.?state\})\s*=\s*"/;

/** The rules of a file that are about memory blocks, a line each; "" when there are none. */
export function memoryRulesOf(text: string): string {
  const rules = text
    .replace(/\\\r?\n[ \t]*/g, '')
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  if (!rules.some((line) => NAMES_MEMORY.test(line))) return '';
  return rules
    .filter((line) => NAMES_MEMORY.test(line) || (SETS_STATE.test(line) && !NAMES_ANOTHER.test(line)))
    .map((line) => `${line}\n`)
    .join('');
}

/** Which file of each name counts: the first in the order of UDEV_DIRECTORIES. Paths that are no rules files are left out. */
export function effectiveRules(paths: readonly string[]): readonly string[] {
  const byName = new Map<string, { path: string; rank: number }>();
  for (const path of paths) {
    const file = udevRulesFile(path);
    if (file === undefined) continue;
    const rank = UDEV_DIRECTORIES.indexOf(file.directory);
    const known = byName.get(file.name);
    if (known === undefined || rank < known.rank) byName.set(file.name, { path, rank });
  }
  return [...byName].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, { path }]) => path);
}

/**
 * What a file does to blocks that appear: the words that it may write to `state`, the last one assigned to a variable that is
 * written; "online" for ATTR{online}="1".
 *
 * @param machine.virtual  whether it runs under a hypervisor, for rules that ask systemd-detect-virt; undefined: not known, and
 *                         what either would do is listed
 */
export function statesWritten(rules: string, machine: { readonly virtual: boolean | undefined }): readonly string[] {
  const words = new Set<string>();
  let variable = new Set<string>();
  for (const line of rules.split('\n')) {
    const virt = /systemd-detect-virt/.test(line) ? /\bRESULT\s*([!=])=\s*"none"/.exec(line) : null;
    const asks = virt === null ? undefined : virt[1] === '!'; // true: the rule is for virtual machines
    if (asks !== undefined && machine.virtual !== undefined && asks !== machine.virtual) continue;
    const doubtful = asks !== undefined && machine.virtual === undefined;
    const set = /\bENV\{\.?state\}\s*=\s*"([a-z_]+)"/.exec(line);
    if (set !== null) variable = new Set([...(doubtful ? variable : []), set[1] as string]);
    if (/\bATTR\{state\}\s*=\s*"\$env\{\.?state\}"/.test(line)) for (const word of variable) words.add(word);
    const word =
      /\bATTR\{state\}\s*=\s*"([a-z_]+)"/.exec(line) ??
      /\bRUN(?:\{program\})?\s*\+?=\s*"[^"]*\becho (online(?:_movable|_kernel)?)\b[^"]*\/state\b/.exec(line);
    if (word !== null) words.add(word[1] as string);
    if (/\bATTR\{online\}\s*=\s*"1"/.test(line)) words.add('online');
  }
  return [...words].sort();
}
