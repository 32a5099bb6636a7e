// /proc/meminfo and nodeN/meminfo: named amounts, in kB (1024 bytes) or in huge pages, in the kernel's order.
//
//   MemTotal:       24684084 kB        label to column 16, value right-aligned to column 24
//   HardwareCorrupted:     0 kB        a label too long for that: value at column 19, five wide
//   HugePages_Total:       0           counts of huge pages: the same five, no unit
//   Node 0 MemTotal:        8087756 kB   node form: "Node N ", then the same
//   Node 0 HugePages_Total:     0        except here: value at column 17
//   Node 0 FileHugePages:        0 kB    and in 6.1 here: a blank is missing, value at column 15 (`labelWidth`)
//
// Which lines there are depends on the kernel and its configuration; names are unique and MemTotal comes first.
// Follows Linux v6.12 fs/proc/meminfo.c, mm/hugetlb.c: hugetlb_report_meminfo(), hugetlb_report_node_meminfo(),
// drivers/base/node.c: node_read_meminfo(); spec 6.

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { NodeId } from '#base/units';
import { toNodeId } from '#base/units';
import type { KernfsProblem } from './source.ts';
import { linesOf, printCount, problem, quoted, readCount, readNodeNumber } from './text.ts';

export type MeminfoAmount = {
  readonly value: number;
  readonly unit: 'kB' | 'pages';
  /** Columns of the label where the kernel deviates from its own layout; absent on every ordinary line. */
  readonly labelWidth?: number;
};

export type Meminfo = {
  /** Present in the node form only. */
  readonly node?: NodeId;
  /** By name without the colon; iteration is in the file's order. */
  readonly amounts: ReadonlyMap<string, MeminfoAmount>;
};

/** /proc/meminfo or a node's. Refuses a file that does not begin with MemTotal, repeated names and mixed nodes. */
export function parseMeminfo(text: string, file = '/proc/meminfo'): Result<Meminfo, KernfsProblem> {
  const lines = linesOf(text, file);
  if (!lines.ok) return lines;
  const amounts = new Map<string, MeminfoAmount>();
  let node: string | undefined;
  for (const [i, line] of lines.value.entries()) {
    const m = /^(?:Node +(\d+) +)?([A-Za-z][A-Za-z0-9_()]*):( +)(\d+)( +kB)? *$/.exec(line);
    const value = m === null ? undefined : readCount(m[4]);
    if (m === null || value === undefined) {
      return problem(file, i + 1, `expected a name, a colon and an amount, found ${quoted(line)}`);
    }
    const name = m[2];
    if (i === 0) {
      node = m[1];
      if (name !== 'MemTotal') return problem(file, 1, `expected MemTotal first, found ${name}: the head is missing`);
    }
    if (m[1] !== node) return problem(file, i + 1, 'the line is about another node than the first one');
    if (amounts.has(name)) return problem(file, i + 1, `${name} was given before`);
    const unit = m[5] === undefined ? 'pages' : 'kB';
    const width = name.length + 1 + m[3].length - Math.max(0, VALUE_WIDTH - m[4].length);
    const deviates = isOrdinary(name, unit) && width !== LABEL_WIDTH && width > name.length;
    amounts.set(name, deviates ? { value, unit, labelWidth: width } : { value, unit });
  }
  if (node === undefined) return ok({ amounts });
  const id = readNodeNumber(node);
  if (id === undefined) return problem(file, 1, `${quoted(node)} is not the number of a node`);
  return ok({ node: toNodeId(id), amounts });
}

export function printMeminfo(x: Meminfo): string {
  const prefix = x.node === undefined ? '' : `Node ${x.node} `;
  const longLabelWidth = x.node === undefined ? 19 : 17;
  let text = '';
  for (const [name, { value, unit, labelWidth }] of x.amounts) {
    const label = `${name}:`;
    const count = printCount(value);
    const cells = isOrdinary(name, unit)
      ? label.padEnd(labelWidth ?? LABEL_WIDTH) + count.padStart(VALUE_WIDTH)
      : label.padEnd(Math.max(longLabelWidth, label.length + 1)) + count.padStart(5);
    text += `${prefix}${cells}${unit === 'kB' ? ' kB' : ''}\n`;
  }
  return text;
}

const LABEL_WIDTH = 16;
const VALUE_WIDTH = 8;

/** In kB, and the label leaves room for its colon. */
const isOrdinary = (name: string, unit: MeminfoAmount['unit']): boolean => unit === 'kB' && name.length < LABEL_WIDTH;

/** The amount in kB, undefined where this kernel has no such line or counts it in pages. */
export function meminfoKb(x: Meminfo, name: string): number | undefined {
  const amount = x.amounts.get(name);
  return amount?.unit === 'kB' ? amount.value : undefined;
}
