// /proc/vmstat and nodeN/vmstat: one "name value" a line, in the kernel's order, which tells kernels apart.
//
//   nr_free_pages 984993
//   ...
//   nr_unstable 0          <- ends /proc/vmstat (in old kernels it stands further up); node files do not have it
//
// Invariants: names are unique; the machine's file has nr_unstable, else its end is missing.
// Follows Linux v6.12 mm/vmstat.c: vmstat_show(), drivers/base/node.c: node_read_vmstat(); spec 6.

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem } from './source.ts';
import { linesOf, printCount, problem, quoted, readCount } from './text.ts';

/** Counters by name; iteration is in the file's order. Pages, events or kB as the name implies. */
export type Vmstat = ReadonlyMap<string, number>;

const LAST_OF_MACHINE = 'nr_unstable';

/** /proc/vmstat. Refuses repeated names, lines that are no counter and a file that ends before nr_unstable. */
export function parseVmstat(text: string, file = '/proc/vmstat'): Result<Vmstat, KernfsProblem> {
  const parsed = parseNodeVmstat(text, file);
  if (!parsed.ok || parsed.value.has(LAST_OF_MACHINE)) return parsed;
  return problem(file, 0, `the file ends before ${LAST_OF_MACHINE}: its tail is missing`);
}

/** /sys/devices/system/node/nodeN/vmstat: the same lines; nothing marks its end. */
export function parseNodeVmstat(text: string, file = 'vmstat'): Result<Vmstat, KernfsProblem> {
  const lines = linesOf(text, file);
  if (!lines.ok) return lines;
  const counters = new Map<string, number>();
  for (const [i, line] of lines.value.entries()) {
    const m = /^([A-Za-z_][A-Za-z0-9_]*) +(\d+) *$/.exec(line);
    const value = m === null ? undefined : readCount(m[2]);
    if (m === null || value === undefined) {
      return problem(file, i + 1, `expected a name and a count, found ${quoted(line)}`);
    }
    if (counters.has(m[1])) return problem(file, i + 1, `${m[1]} was given before`);
    counters.set(m[1], value);
  }
  return ok(counters);
}

export function printVmstat(v: Vmstat): string {
  let text = '';
  for (const [name, value] of v) text += `${name} ${printCount(value)}\n`;
  return text;
}
