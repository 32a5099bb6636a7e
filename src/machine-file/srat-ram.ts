// RAM by SRAT: which node each range of RAM belongs to, and which of it may be taken out, from the firmware's table.
//
//   RAM (e820)   ├──────┤  ├───────────────────────┤
//   SRAT         │ domain 0 │ domain 1 │ domain 1, hot-pluggable │         cut where either says so
//   result       ├──────┤  ├─┤──────────┤───────────┤
//
// Proximity domains become nodes in the order in which they are first named: by CPUs that are enabled, then by memory.
// Entries of one node are joined across holes in which no other node has memory. A table that cannot be true is not
// believed at all: all RAM is then node 0, and a note says why.
//
// Follows Linux v6.12 drivers/acpi/numa/srat.c: acpi_numa_init(), arch/x86/mm/srat.c, mm/numa_memblks.c:
// numa_cleanup_meminfo(), mm/memblock.c: memblock_validate_numa_coverage() (spec 1.12).

import type { Srat, SratMemory } from '#kernfs/srat';
import { type NodeId, PAGE_SIZE, type RamRange, toNodeId, toPfn } from '#mm/index';

/** Bytes, half-open. */
export type ByteRange = { readonly start: number; readonly end: number; readonly mirrored?: boolean };

export type SratSpec = {
  /** Ascending, cut at the borders of nodes and hot-pluggable ranges; whole frames. */
  readonly ram: readonly RamRange[];
  /** All nodes that the table names: memory may come to them later. */
  readonly possibleNodes: readonly NodeId[];
  /** CPUs by node, numbered in the order of the table. */
  readonly cpuMask: ReadonlyMap<NodeId, readonly number[]>;
  /** Where memory may be added later, and to which node: hot-pluggable ranges without RAM. */
  readonly hotplug: readonly { readonly start: number; readonly end: number; readonly node: NodeId }[];
  /** Why the table, or a part of it, was not believed. */
  readonly notes: readonly string[];
};

type Claim = { start: number; end: number; readonly node: NodeId };

/** RAM without a node that Linux puts up with: 1 MiB. */
const UNCOVERED_LIMIT = 2 ** 20;

/**
 * @param ram  what the firmware calls usable RAM, in bytes; parts of frames are lost, as in the kernel
 * Never refuses: a table that is not believed leaves one node. Cost O(RAM ranges * entries).
 */
export function sratToSpec(srat: Srat, ram: readonly ByteRange[]): SratSpec {
  const nodeOf = new Map<number, NodeId>();
  const node = (proximity: number): NodeId => {
    const domain = srat.revision <= 1 ? proximity & 0xff : proximity; // as acpi_srat_revision <= 1 has it
    if (!nodeOf.has(domain)) nodeOf.set(domain, toNodeId(nodeOf.size));
    return nodeOf.get(domain) as NodeId; // set on the line above
  };
  const cpuMask = new Map<NodeId, number[]>();
  let cpus = 0;
  for (const e of srat.entries) {
    if (e.kind !== 'cpu' || !e.enabled) continue;
    const n = node(e.proximity);
    cpuMask.set(n, [...(cpuMask.get(n) ?? []), cpus++]);
  }
  const memory = srat.entries
    .filter((e): e is SratMemory => e.kind === 'memory' && e.enabled && e.length > 0)
    .map((e) => ({ start: e.base, end: e.base + e.length, node: node(e.proximity), hot: e.hotpluggable }));
  const frames = ram
    .map((r) => ({ ...r, start: Math.ceil(r.start / PAGE_SIZE), end: Math.floor(r.end / PAGE_SIZE) }))
    .filter((r) => r.start < r.end)
    .sort((a, b) => a.start - b.start);
  const toFrames = (r: { start: number; end: number }) => ({
    start: Math.floor(r.start / PAGE_SIZE),
    end: Math.ceil(r.end / PAGE_SIZE),
  });
  const alone = (note: string): SratSpec => ({
    ram: frames.map((r) => rangeOf(r.start, r.end, toNodeId(0), false, r.mirrored)),
    possibleNodes: [toNodeId(0)],
    cpuMask: new Map(cpus === 0 ? [] : [[toNodeId(0), Array.from({ length: cpus }, (_, k) => k)]]),
    hotplug: [],
    notes: [`${note}: the table is not believed, and all RAM is on node 0`],
  });
  const clash = memory.find((a, k) =>
    memory.some((b, j) => j > k && a.node !== b.node && a.start < b.end && b.start < a.end),
  );
  if (clash !== undefined) return alone(`memory of node ${clash.node} is another node’s as well`);
  const claims = joined(memory.map((m) => ({ ...toFrames(m), node: m.node })));
  const hot = memory.filter((m) => m.hot).map((m) => ({ ...toFrames(m), node: m.node }));
  const out: RamRange[] = [];
  let uncovered = 0;
  for (const r of frames) {
    const borders = [...claims, ...hot].flatMap((c) => [c.start, c.end]).filter((b) => b > r.start && b < r.end);
    let start = r.start;
    for (const end of [...new Set(borders)].sort((a, b) => a - b).concat(r.end)) {
      const owner = claims.find((c) => c.start <= start && end <= c.end);
      if (owner === undefined) uncovered += end - start;
      else {
        const plugs = hot.some((h) => h.start <= start && end <= h.end);
        out.push(rangeOf(start, end, owner.node, plugs, r.mirrored));
      }
      start = end;
    }
  }
  if (uncovered * PAGE_SIZE > UNCOVERED_LIMIT)
    return alone(`${Math.floor((uncovered * PAGE_SIZE) / 2 ** 20)} MiB of the RAM have no node`);
  const nodes = [...nodeOf.values()].sort((a, b) => a - b);
  return {
    ram: out,
    possibleNodes: nodes,
    cpuMask,
    hotplug: memory
      .filter((m) => m.hot && !out.some((r) => r.start * PAGE_SIZE < m.end && m.start < r.end * PAGE_SIZE))
      .map((m) => ({ start: m.start, end: m.end, node: m.node })),
    notes: uncovered === 0 ? [] : [`${uncovered * (PAGE_SIZE / 1024)} KiB of the RAM have no node and are not used`],
  };
}

function rangeOf(start: number, end: number, node: NodeId, hotpluggable: boolean, mirrored?: boolean): RamRange {
  return {
    start: toPfn(start),
    end: toPfn(end),
    node,
    ...(hotpluggable ? { hotpluggable } : {}),
    ...(mirrored === true ? { mirrored } : {}),
  };
}

/** Claims of one node become one where no other node lies in between: what is in the hole is that node's too. */
function joined(claims: readonly Claim[]): Claim[] {
  const out: Claim[] = [];
  for (const c of [...claims].sort((a, b) => a.start - b.start)) {
    const last = out[out.length - 1];
    if (last !== undefined && last.node === c.node) last.end = Math.max(last.end, c.end);
    else out.push({ ...c });
  }
  return out;
}
