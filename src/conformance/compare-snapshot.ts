// A snapshot beside the engine: every file of it whose content follows from the operations.
//
//   memory/        which blocks there are; state, valid_zones, node, phys_index, removable of each; block size, auto-online
//   parameters     all four
//   zoneinfo       of every zone: spanned, present, managed, start_pfn, protection, min, low, high
//   iomem          every line
//   meminfo        MemTotal, against the boot; of each node too
//   vmstat         nr_memmap_pages and nr_memmap_boot_pages, against the boot
//   pagetypeinfo   pageblocks of each zone, all types together; buddyinfo: which zones are listed
//   node/          online, possible, has_memory, has_normal_memory, has_cpu, distances, CPU lists
//   kpageflags     offline blocks read as no page; heads that host memmap as the kernel flags them
//
// Read through the machine's own tree, so that printing is compared as well.

import type { Capture } from '#capture/capture';
import { forEachRun } from '#capture/page-runs';
import type { KernelFs } from '#kernfs/kernel-fs';
import { meminfoKb, parseMeminfo } from '#kernfs/meminfo';
import { readMemoryBlocks } from '#kernfs/memory-blocks';
import { parsePagetypeinfo } from '#kernfs/pagetypeinfo';
import type { KernTree } from '#kernfs/source';
import { parseVmstat } from '#kernfs/vmstat';
import { parseZoneinfo, type ZoneinfoZone } from '#kernfs/zoneinfo';
import { type Machine, PAGE_SIZE, ZONE_NAMES } from '#mm/index';
import type { ZoneRow } from './ops.ts';
import type { Tally } from './tally.ts';

/** What the files said at boot: amounts are compared as changes since then. */
export type FirstReading = {
  readonly memTotalKb: number;
  readonly nodeTotalKb: ReadonlyMap<number, number>;
  /** Frames managed by the engine then. */
  readonly managed: number;
  readonly nodeManaged: ReadonlyMap<number, number>;
  readonly directMapKb: number | undefined;
  readonly memmapPages: number | undefined;
  readonly memmapBootPages: number | undefined;
};

const NODE = '/sys/devices/system/node';
const MEMORY = '/sys/devices/system/memory';

/** @param goneKb  what the files count of devices that the machine does not have yet, by node */
export function firstReading(m: Machine, tree: KernTree, goneKb: ReadonlyMap<number, number>): FirstReading {
  const gone = [...goneKb.values()].reduce((a, b) => a + b, 0);
  return {
    memTotalKb: (memTotal(tree.readText('/proc/meminfo')) ?? 0) - gone,
    nodeTotalKb: new Map(m.nodes.map((n) => [n, (nodeTotal(tree, n) ?? 0) - (goneKb.get(n) ?? 0)])),
    managed: managedOf(m),
    nodeManaged: new Map(m.nodes.map((n) => [n, managedOf(m, n)])),
    directMapKb: directMapKb(tree),
    memmapPages: vmstatOf(tree, 'nr_memmap_pages'),
    memmapBootPages: vmstatOf(tree, 'nr_memmap_boot_pages'),
  };
}

const managedOf = (m: Machine, node?: number): number =>
  m.zones.reduce((n, p) => n + (node === undefined || p.node === node ? p.managed : 0), 0);

function memTotal(text: string | undefined): number | undefined {
  const parsed = text === undefined ? undefined : parseMeminfo(text);
  return parsed?.ok === true ? meminfoKb(parsed.value, 'MemTotal') : undefined;
}

function directMapKb(tree: KernTree): number | undefined {
  const text = tree.readText('/proc/meminfo');
  const parsed = text === undefined ? undefined : parseMeminfo(text);
  if (parsed?.ok !== true) return undefined;
  const parts = ['DirectMap4k', 'DirectMap2M', 'DirectMap1G'].map((name) => meminfoKb(parsed.value, name));
  return parts.every((p) => p === undefined) ? undefined : parts.reduce<number>((n, p) => n + (p ?? 0), 0);
}

const nodeTotal = (tree: KernTree, node: number): number | undefined => {
  const m = /MemTotal:\s+(\d+) kB/.exec(tree.readText(`${NODE}/node${node}/meminfo`) ?? '');
  return m === null ? undefined : Number(m[1]);
};

function vmstatOf(tree: KernTree, name: string): number | undefined {
  const text = tree.readText('/proc/vmstat');
  const parsed = text === undefined ? undefined : parseVmstat(text);
  return parsed?.ok === true ? parsed.value.get(name) : undefined;
}

// ---------------------------------------------------------------------------------------------------------- zones

/** Rows of zoneinfo that were read on their own. A zone that the engine has no pool for is empty. */
export function compareZones(tally: Tally, m: Machine, rows: readonly ZoneRow[]): void {
  for (const row of rows) {
    if (!(ZONE_NAMES as readonly string[]).includes(row.zone)) continue; // Device: nobody puts memory there here
    const pool = m.zones.find((p) => p.node === row.node && p.name === row.zone);
    const what = `Node ${row.node}, zone ${row.zone}`;
    tally.compare('spanned', what, row.spanned, pool?.spanned ?? 0);
    tally.compare('present', what, row.present, pool?.present ?? 0);
    tally.compare('managed', what, row.managed, pool?.managed ?? 0);
  }
}

const FIGURES = ['spanned', 'present', 'managed', 'min', 'low', 'high'] as const;

function compareZoneinfo(tally: Tally, recorded: KernTree, engine: KernTree): void {
  const theirs = zonesIn(recorded);
  const ours = zonesIn(engine);
  if (theirs === undefined) return;
  for (const z of theirs) {
    const what = `Node ${z.node}, zone ${z.zone}`;
    const own = ours?.find((o) => o.node === z.node && o.zone === z.zone);
    tally.compare('zone', what, 'listed', own === undefined ? 'missing' : 'listed');
    if (own === undefined) continue;
    for (const key of FIGURES) tally.compare(key, what, z[key], own[key]);
    tally.compare('start_pfn', what, z.startPfn ?? 'none', own.startPfn ?? 'none');
    tally.compare('protection', what, z.protection.join(' '), own.protection.join(' '));
  }
  tally.compare('zones', 'as many', theirs.length, ours?.length ?? 0);
}

function zonesIn(tree: KernTree): ZoneinfoZone[] | undefined {
  const text = tree.readText('/proc/zoneinfo');
  const parsed = text === undefined ? undefined : parseZoneinfo(text);
  return parsed?.ok === true ? parsed.value : undefined;
}

// -------------------------------------------------------------------------------------------------------- snapshots

export function compareSnapshot(tally: Tally, m: Machine, fs: KernelFs, first: FirstReading, capture: Capture): void {
  const { tree } = capture;
  compareBlocks(tally, tree, fs);
  for (const file of ['block_size_bytes', 'auto_online_blocks']) text(tally, tree, fs, `${MEMORY}/${file}`);
  for (const name of tree.list('/sys/module/memory_hotplug/parameters')) {
    text(tally, tree, fs, `/sys/module/memory_hotplug/parameters/${name}`);
  }
  for (const name of ['online', 'possible', 'has_memory', 'has_normal_memory', 'has_cpu']) {
    text(tally, tree, fs, `${NODE}/${name}`);
  }
  for (const name of tree.list(NODE).filter((n) => /^node\d+$/.test(n))) {
    for (const file of ['cpulist', 'distance']) text(tally, tree, fs, `${NODE}/${name}/${file}`);
  }
  compareZoneinfo(tally, tree, fs);
  compareIomem(tally, tree, fs);
  compareAmounts(tally, m, fs, first, tree);
  comparePageblocks(tally, tree, fs);
  comparePages(tally, m, capture);
}

/** A file, to the byte. One that was not recorded is not compared. */
function text(tally: Tally, recorded: KernTree, engine: KernTree, path: string): void {
  const theirs = recorded.readText(path);
  if (theirs !== undefined) tally.compare('file', path, theirs, engine.readText(path) ?? 'missing');
}

function compareBlocks(tally: Tally, recorded: KernTree, engine: KernTree): void {
  const theirs = readMemoryBlocks(recorded);
  const ours = readMemoryBlocks(engine);
  if (!theirs.ok || !ours.ok) {
    tally.compare('blocks', 'readable', String(theirs.ok), String(ours.ok));
    return;
  }
  const own = new Map(ours.value.blocks.map((b) => [b.id as number, b]));
  for (const b of theirs.value.blocks) {
    const e = own.get(b.id);
    const what = `block ${b.id}`;
    tally.compare('block', what, 'there', e === undefined ? 'missing' : 'there');
    if (e === undefined) continue;
    tally.compare('state', what, b.state, e.state);
    if (b.validZones !== undefined) {
      tally.compare('valid_zones', what, b.validZones.join(' '), (e.validZones ?? []).join(' '));
    }
    tally.compare('node link', what, b.nodes.join(' '), e.nodes.join(' '));
    if (b.removable !== undefined) tally.compare('removable', what, String(b.removable), String(e.removable));
    if (b.physDevice !== undefined) tally.compare('phys_device', what, b.physDevice, e.physDevice ?? 'missing');
  }
  tally.compare('blocks', 'as many', theirs.value.blocks.length, ours.value.blocks.length);
}

/** Line by line: what memory hotplug does shows as lines that come, go and grow; all others stay what they are. */
function compareIomem(tally: Tally, recorded: KernTree, engine: KernTree): void {
  const theirs = recorded.readText('/proc/iomem');
  if (theirs === undefined) return;
  const a = theirs.trimEnd().split('\n');
  const b = (engine.readText('/proc/iomem') ?? '').trimEnd().split('\n');
  const rest = [...b];
  for (const line of a) {
    const at = rest.indexOf(line);
    if (at >= 0) rest.splice(at, 1);
    tally.compare('iomem', line.trim(), line, at >= 0 ? line : 'no such line');
  }
  tally.compare('iomem', 'lines too many', '', rest.join('; '));
}

function compareAmounts(tally: Tally, m: Machine, fs: KernTree, first: FirstReading, tree: KernTree): void {
  const kbPerPage = PAGE_SIZE / 1024;
  const total = memTotal(tree.readText('/proc/meminfo'));
  if (total !== undefined) {
    const since = (managedOf(m) - first.managed) * kbPerPage;
    tally.compare('MemTotal', 'since boot, kB', total - first.memTotalKb, since);
  }
  for (const node of m.nodes) {
    const now = nodeTotal(tree, node);
    if (now === undefined) continue;
    const since = (managedOf(m, node) - (first.nodeManaged.get(node) ?? 0)) * kbPerPage;
    tally.compare('MemTotal', `node ${node} since boot, kB`, now - (first.nodeTotalKb.get(node) ?? 0), since);
  }
  // The kernel splits leaves as it pleases; how much is mapped in all follows from what was added and removed.
  const mapped = directMapKb(tree);
  if (mapped !== undefined && first.directMapKb !== undefined) {
    tally.compare('DirectMap', 'kB in all', mapped, directMapKb(fs) ?? 'missing');
  }
  for (const name of ['nr_memmap_pages', 'nr_memmap_boot_pages'] as const) {
    const theirs = vmstatOf(tree, name);
    if (theirs !== undefined) tally.compare('vmstat', name, theirs, vmstatOf(fs, name) ?? 'missing');
  }
}

/** How many pageblocks each zone has. Of which type they are is the running kernel's doing. */
function comparePageblocks(tally: Tally, recorded: KernTree, engine: KernTree): void {
  const sums = (tree: KernTree): Map<string, number> | undefined => {
    const t = tree.readText('/proc/pagetypeinfo');
    const parsed = t === undefined ? undefined : parsePagetypeinfo(t);
    if (parsed?.ok !== true) return undefined;
    return new Map(
      parsed.value.blocks.map((b) => [`Node ${b.node}, zone ${b.zone}`, b.counts.reduce((x, y) => x + y, 0)]),
    );
  };
  const theirs = sums(recorded);
  const ours = sums(engine);
  for (const [zone, n] of theirs ?? []) tally.compare('pageblocks', zone, n, ours?.get(zone) ?? 'not listed');
  const zones = (tree: KernTree): string =>
    (tree.readText('/proc/buddyinfo') ?? '')
      .split('\n')
      .map((l) => /^Node \d+, zone +\w+/.exec(l)?.[0].replace(/ +/g, ' ') ?? '')
      .join('; ');
  if (recorded.readText('/proc/buddyinfo') !== undefined) {
    tally.compare('buddyinfo', 'zones', zones(recorded), zones(engine));
  }
}

const NOPAGE = 1 << 20;

function comparePages(tally: Tally, m: Machine, capture: Capture): void {
  const flags = capture.kpageflags;
  if (flags === undefined) return;
  for (const id of m.blockIds()) {
    const b = m.block(id);
    if (b === undefined || b.absent > 0 || b.endPfn > flags.endPfn) continue;
    let nopage = 0;
    let head = '';
    forEachRun(flags, b.startPfn, b.endPfn, (start, end, word) => {
      const lo = flags.lo[word] as number;
      if ((lo & NOPAGE) !== 0) nopage += end - start;
      if (start === b.startPfn) head = `${(flags.hi[word] as number).toString(16)}:${lo.toString(16)}`;
    });
    const want = b.state === 'offline' ? m.blockPages : 0;
    tally.compare('kpageflags', `block ${id}, frames without a page`, nopage, want);
    const hosts = (m.blocks.vmemmapPages[m.blocks.rowOf(id)] as number) > 0;
    const early = m.blocks.early[m.blocks.rowOf(id)] === 1;
    if (b.state === 'offline' || early) continue;
    const { high, low } = m.profile.memmapFlags;
    const memmap = `${high.toString(16)}:${low.toString(16)}`;
    tally.compare('kpageflags', `block ${id} hosts its memmap`, String(head === memmap), String(hosts));
  }
}
