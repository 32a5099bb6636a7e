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
const SETS_STATE = /\bATTR\{(?:state|online)\}\s*=\s*"|\bENV\{\.?state\}\s*=\s*"/;

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

/** What a file does to blocks that appear: the words that it may write to `state`; "online" for ATTR{online}="1". */
export function statesWritten(rules: string): readonly string[] {
  const words = new Set<string>();
  for (const line of rules.split('\n')) {
    const online = /\bATTR\{online\}\s*=\s*"(\d)"/.exec(line);
    if (online?.[1] === '1') words.add('online');
    for (const m of line.matchAll(/\b(?:ATTR\{state\}|ENV\{\.?state\})\s*=\s*"([a-z_]+)"/g)) words.add(m[1] as string);
  }
  return [...words].sort();
}
