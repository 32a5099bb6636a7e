// /sys/kernel/mm/kremap: kernel pages that were moved under constant addresses, read and changed with echo and cat. No Linux
// has this directory.
//
//   file                                     mode   what it says, or does
//   displaced                                0444   addresses that lead to another frame than their own
//   splits collapses splits_1g collapses_1g  0444   leaves of the direct map that became small pages, and one again
//   split_leaves whole_leaves                0444   leaves of 2 MiB that are split now, and those that lie elsewhere whole
//   leaf_tables table_bytes                  0444   what translation costs
//   moves                                    0444   pages moved in all
//   classes                                  0444   "K:12 V:3 T:1 H:0", pages moved by class
//   stop_windows max_stop_pages              0444   times that all CPUs stood still, and the most pages in one of them
//   shootdowns ipis aborts                   0444   translations withdrawn, interrupts for it, moves given up half-way
//   va_blocked                               0444   frames out of use because their address is taken
//   refused                                  0444   "hard-pinned:1 untyped:2", by reason; empty: nothing was
//   tlb                                      0444   "leaves:1024 split:5 bound_ppm:220", see mm/kremap/tlb.ts
//   kernel_page_tables                       0400   the mappings, as debugfs has them; "-> address" where it is not identity
//   move                                     0200   "0x10801100" or "0x10801100 0x400000": from, to
//   evacuate                                 0200   "0x108000000-0x10fffffff", with the words partial, whole-leaf, keep-image
//   home                                     0644   pages that came home; "0x108000000-0x10fffffff" brings those of a range home
//
// Addresses are physical, the end of a range included, as in /proc/iomem; all are whole pages. A refusal is its errno.
// Like pools, the tree of a twin lists the directory once something was moved. Spec 9.C, verbs.

import type { ErrnoName } from '#base/errno';
import { type Pfn, toPfn } from '#base/units';
import { PAGE_SIZE } from '#mm/geometry';
import { type EvacuateOptions, type Kremap, type KremapStat, kremap } from '#mm/kremap/kremap';
import { kremapOf } from '#mm/kremap/kremap-state';
import { type MappedRun, mappedRuns } from '#mm/kremap/page-tables';
import type { Machine } from '#mm/machine';
import type { TreeContext } from './tree-context.ts';
import { attribute, type DirNode, type FileNode, fixedDir, trigger, word } from './tree-node.ts';

/** Is the directory listed? */
export const listsKremap = ({ machine: m, base }: TreeContext): boolean =>
  base === undefined || kremapOf(m) !== undefined;

export function kremapDir({ machine: m }: TreeContext): DirNode {
  const k = kremap(m);
  const stat = (of: (s: KremapStat) => number | string): FileNode => attribute(() => `${of(k.stat())}\n`);
  const pairs = (entries: Iterable<readonly [string, number]>): string =>
    [...entries].map(([name, n]) => `${name}:${n}`).join(' ');
  return fixedDir({
    aborts: stat((s) => s.aborts),
    classes: stat((s) => pairs(Object.entries(s.pages))),
    collapses: stat((s) => s.collapses),
    collapses_1g: stat((s) => s.collapses1G),
    displaced: stat((s) => s.displaced),
    evacuate: trigger((text) => evacuate(k, word(text))),
    home: { ...stat((s) => s.home), mode: 0o644, store: (text) => home(k, word(text)) },
    ipis: stat((s) => s.ipis),
    kernel_page_tables: { ...attribute(() => dump(m)), mode: 0o400, size: 0 },
    leaf_tables: stat((s) => s.leafTables),
    max_stop_pages: stat((s) => s.maxStopPages),
    move: trigger((text) => move(k, word(text))),
    moves: stat((s) => s.moves),
    refused: stat((s) => pairs([...s.refused].sort(([a], [b]) => (a < b ? -1 : 1)))),
    shootdowns: stat((s) => s.shootdowns),
    split_leaves: stat((s) => s.splitLeaves),
    splits: stat((s) => s.splits),
    splits_1g: stat((s) => s.splits1G),
    stop_windows: stat((s) => s.stopWindows),
    table_bytes: stat((s) => s.tableBytes),
    tlb: stat((s) =>
      pairs(Object.entries({ leaves: s.tlb.leaves, split: s.tlb.splitLeaves, bound_ppm: s.tlb.boundPpm })),
    ),
    va_blocked: stat((s) => s.vaBlocked),
    whole_leaves: stat((s) => s.wholeLeaves),
  });
}

/** A physical address, of a page's first byte. */
function pageAt(text: string): Pfn | undefined {
  if (!/^(0x[0-9a-f]+|\d+)$/i.test(text)) return undefined;
  const address = Number(text);
  return address % PAGE_SIZE === 0 && Number.isSafeInteger(address) ? toPfn(address / PAGE_SIZE) : undefined;
}

/** "START-END", whole pages, the end included. */
function rangeOf(text: string): { readonly start: Pfn; readonly end: Pfn } | undefined {
  const [first, last, ...more] = text.split('-');
  if (first === undefined || last === undefined || more.length > 0 || !/^(0x[0-9a-f]+|\d+)$/i.test(last))
    return undefined;
  const start = pageAt(first);
  const end = pageAt(String(Number(last) + 1));
  return start === undefined || end === undefined || end <= start ? undefined : { start, end };
}

function move(k: Kremap, text: string): 'ok' | ErrnoName {
  const [from, to, ...more] = text.trim().split(/\s+/).map(pageAt);
  const wrong = more.length > 0 || from === undefined || (to === undefined && /\s/.test(text.trim()));
  if (wrong) return 'EINVAL';
  const r = k.move(from, to);
  return r.ok ? 'ok' : r.error.errno;
}

function evacuate(k: Kremap, text: string): 'ok' | ErrnoName {
  const [where, ...words] = text.trim().split(/\s+/);
  const range = rangeOf(where ?? '');
  if (range === undefined || words.some((w) => !['partial', 'whole-leaf', 'keep-image'].includes(w))) return 'EINVAL';
  const options: EvacuateOptions = {
    partial: words.includes('partial'),
    policy: words.includes('whole-leaf') ? 'whole-leaf' : 'page',
    image: words.includes('keep-image') ? 'refuse' : 'move',
  };
  const r = k.evacuate(range, options);
  return r.ok ? 'ok' : r.error.errno;
}

/** EBUSY when some of the range's pages are still elsewhere. */
function home(k: Kremap, text: string): 'ok' | ErrnoName {
  const range = rangeOf(text.trim());
  if (range === undefined) return 'EINVAL';
  return k.home(range).left === 0 ? 'ok' : 'EBUSY';
}

const DIRECT_MAP = 0xffff888000000000n;
const IMAGE_MAP = 0xffffffff80000000n;

/** As arch/x86/mm/dump_pagetables.c prints: range, size, protection, level; ours: where it leads, if that is elsewhere. */
function dump(m: Machine): string {
  let area = '';
  let out = '';
  for (const run of mappedRuns(m)) {
    if (run.area !== area)
      out += run.area === 'direct' ? '---[ Low Kernel Mapping ]---\n' : '---[ High Kernel Mapping ]---\n';
    area = run.area;
    out += line(run);
  }
  return out;
}

function line({ area, level, va, pages, pfn }: MappedRun): string {
  const at = (area === 'direct' ? DIRECT_MAP : IMAGE_MAP) + BigInt(va) * BigInt(PAGE_SIZE);
  const end = at + BigInt(pages) * BigInt(PAGE_SIZE);
  const hex = (n: bigint): string => `0x${n.toString(16).padStart(16, '0')}`;
  const flags = `    RW         ${level === 'pte' ? '    ' : 'PSE '}    GLB NX `;
  const elsewhere = pfn === va ? '' : ` -> 0x${(pfn * PAGE_SIZE).toString(16)}`;
  return `${hex(at)}-${hex(end)}   ${sizeText(pages * (PAGE_SIZE / 1024))} ${flags}${level}${elsewhere}\n`;
}

/** "%9lu%c", in the largest unit that is whole. */
function sizeText(kib: number): string {
  let n = kib;
  let unit = 0;
  while (n % 1024 === 0 && unit < 3) {
    n /= 1024;
    unit++;
  }
  return `${String(n).padStart(9)}${'KMGT'[unit]}`;
}
