// doctor, room: is there enough free memory, in large enough pieces, where the kernel can use it?
//
//   zone    free │ pages that any request would get: above low watermark + what the zone keeps for lower zones
//           ─────┤
//           low  │      usable chunks of order o = the lesser of: chunks that are there; whole chunks above that line
//
//   need-unmet            fewer usable chunks than were asked for
//   no-contiguous         a node has no usable piece of order 9 (2 MiB): a huge page would have to be made first, by whoever
//                         asks for one. Usual on a machine whose memory is full of page cache, hence a warning
//   fragmented            its score is above the mark at which the kernel itself starts to compact (compaction_proactiveness)
//   below-watermarks      no zone of a node is above its high mark: a note; above low: kswapd works, a warning; above min:
//                         requests wait, bad
//   kernel-zones-starved  no kernel zone is above its high mark, while ZONE_MOVABLE has room that kernel pages may not use;
//                         bad where not even their inactive page cache would help
//   ratio-exceeded        more Movable than auto_movable_ratio allows for the kernel memory there is
//   no-room-for-memmap    the largest DIMM that could be added is smaller than a block, or than what the hypervisor still has
//
// The struct pages of added memory take 1/64 of its size from kernel zones that are there already, at add time (lab fact 13);
// inactive page cache there makes room, which is not counted on, but makes the difference between a warning and bad.
// A node's score: each zone's percent of free memory in pieces smaller than order 9, weighted by its size.
//
// Source: Linux v6.12 mm/page_alloc.c: __zone_watermark_ok(), pgdat_balanced() of mm/vmscan.c; mm/compaction.c:
// fragmentation_score_node(), fragmentation_score_wmark(); spec 1.8, 2.5, 2.11, 4.3.

import { formatSize, plural } from '#base/format';
import { readMemhpParams } from '#kernfs/memhp-params';
import { meminfoKb, parseMeminfo } from '#kernfs/meminfo';
import { isPopulated, statOf, type ZoneinfoZone } from '#kernfs/zoneinfo';
import { extfragForOrder } from '#mm/extfrag';
import { PAGE_SIZE, PAGEBLOCK_ORDER } from '#mm/index';
import type { Twin } from '#twin/index';
import type { DoctorReport, Finding, Need, Seen, Severity } from './doctor.ts';
import type { AddedRange } from './hot-added.ts';

export type ZoneRoom = {
  readonly node: number;
  readonly zone: string;
  /** Pages. */
  readonly free: number;
  readonly min: number;
  readonly low: number;
  readonly high: number;
  readonly present: number;
  readonly managed: number;
  /** Pages kept free for requests that could use no other zone, as zoneinfo's `protection` says for a movable request. */
  readonly reserve: number;
  /** Page cache that goes first when memory is short: nr_zone_inactive_file. */
  readonly inactiveFile: number;
  /** Free chunks by order, 0 to 10. */
  readonly nrFree: readonly number[];
  /** Percent of the free pages in pieces smaller than order 9. */
  readonly extfrag: number;
};

export type NodeRoom = {
  readonly node: number;
  /** Bytes. */
  readonly freeBytes: number;
  /** Usable pieces of 2 MiB and 4 MiB: those that would have to stay free do not count. */
  readonly order9: number;
  readonly order10: number;
  /** 0 to 100: how the kernel's proactive compaction sees it. */
  readonly score: number;
};

/** Populated zones, in the kernel's order. */
export function zoneRooms(twin: Twin, seen: Seen): ZoneRoom[] {
  return twin.zones.filter(isPopulated).map((z): ZoneRoom => {
    const nrFree = seen.free.find((f) => f.node === z.node && f.zone === z.zone)?.nrFree ?? [];
    const padded = Array.from({ length: 11 }, (_, k) => nrFree[k] ?? 0);
    return {
      node: z.node,
      zone: z.zone,
      free: padded.reduce((n, count, k) => n + count * 2 ** k, 0),
      min: z.min,
      low: z.low,
      high: z.high,
      present: z.present,
      managed: z.managed,
      reserve: reserveOf(z, twin.zones),
      inactiveFile: statOf(z.stats, 'nr_zone_inactive_file') ?? 0,
      nrFree: padded,
      extfrag: extfragForOrder(padded, PAGEBLOCK_ORDER),
    };
  });
}

/** For a request that may use all zones up to Movable; the node lists all its zones in order, empty ones too. */
function reserveOf(z: ZoneinfoZone, zones: readonly ZoneinfoZone[]): number {
  const movable = zones.filter((x) => x.node === z.node).findIndex((x) => x.zone === 'Movable');
  return z.protection[movable] ?? 0;
}

/** Whole chunks of 2^order that a request would get without anybody making room: see the picture above. */
export function usableChunks(z: Pick<ZoneRoom, 'free' | 'low' | 'reserve' | 'nrFree'>, order: number): number {
  const there = z.nrFree.reduce((n, count, k) => (k < order ? n : n + count * 2 ** (k - order)), 0);
  return Math.min(there, Math.max(0, Math.floor((z.free - z.low - z.reserve) / 2 ** order)));
}

export function nodeRooms(zones: readonly ZoneRoom[]): NodeRoom[] {
  const nodes = [...new Set(zones.map((z) => z.node))].sort((a, b) => a - b);
  return nodes.map((node) => {
    const mine = zones.filter((z) => z.node === node);
    const present = mine.reduce((n, z) => n + z.present, 0);
    return {
      node,
      freeBytes: mine.reduce((n, z) => n + z.free, 0) * PAGE_SIZE,
      order9: mine.reduce((n, z) => n + usableChunks(z, 9), 0),
      order10: mine.reduce((n, z) => n + usableChunks(z, 10), 0),
      score: mine.reduce((n, z) => n + Math.trunc((z.present * z.extfrag) / (present + 1)), 0),
    };
  });
}

export type RoomInput = {
  readonly seen: Seen;
  readonly zones: readonly ZoneRoom[];
  readonly nodes: readonly NodeRoom[];
  readonly added: readonly AddedRange[];
  readonly need: Need | undefined;
};

export function roomFindings(
  twin: Twin,
  input: RoomInput,
): { readonly findings: readonly Finding[] } & Pick<DoctorReport, 'largestDimmBytes' | 'need'> {
  const need = needOf(input);
  const largestDimmBytes = largestDimmOf(twin, input.zones);
  const unmet = need === undefined || need.met ? [] : [needUnmet(need, input)];
  const low = watermarks(twin, input.zones);
  return {
    findings: [
      ...unmet,
      ...low,
      ...(unmet.length + low.length === 0 ? [] : idleHugePages(input.seen)),
      ...starved(input.zones),
      ...contiguous(twin, input),
      ...ratio(twin, input.zones),
      ...memmapRoom(twin, input, largestDimmBytes),
    ],
    largestDimmBytes: { ...largestDimmBytes, value: Math.min(largestDimmBytes.value, leftOutside(twin, input.seen)) },
    need,
  };
}

function needOf({ need, zones }: RoomInput): DoctorReport['need'] {
  if (need === undefined) return undefined;
  const usable = zones.reduce((n, z) => n + usableChunks(z, need.order), 0);
  return { ...need, usable, met: usable >= need.chunks };
}

function needUnmet(need: NonNullable<DoctorReport['need']>, { zones }: RoomInput): Finding {
  const { chunks, order } = need;
  const size = formatSize(2 ** order * PAGE_SIZE);
  const perZone = zones.map((z) => `node ${z.node} ${z.zone}: ${usableChunks(z, order)}`);
  return {
    code: 'need-unmet',
    severity: 'bad',
    sentence: `${plural(chunks, 'piece')} of ${size} (order ${order}) were asked for; ${need.usable === 0 ? 'there is none' : `${need.usable} can be had now`}`,
    evidence: [perZone.join(', ')],
    fix: [`dimmer plan contiguous ${chunks} --order ${order}`],
    provenance: 'derived',
  };
}

/** Said only where memory is short: huge pages that lie free in a pool are contiguous memory that nobody else may use. */
function idleHugePages(seen: Seen): Finding[] {
  const pools = seen.hugePages.filter((p) => p.free > 0);
  if (pools.length === 0) return [];
  const bytes = pools.reduce((n, p) => n + p.free * p.bytes, 0);
  const dir = (node: number): string =>
    node < 0 ? '/sys/kernel/mm/hugepages' : `/sys/devices/system/node/node${node}/hugepages`;
  return [
    {
      code: 'huge-pages-idle',
      severity: 'note',
      sentence: `${formatSize(bytes)} lie free in pools of huge pages, where nobody else may use them`,
      evidence: pools.map(
        (p) =>
          `${p.node < 0 ? '' : `node ${p.node}: `}${p.free} of ${plural(p.total, 'page')} of ${formatSize(p.bytes)}`,
      ),
      fix: pools.map(
        (p) =>
          `echo ${p.total - p.free} > ${dir(p.node)}/hugepages-${p.bytes / 1024}kB/nr_hugepages    # if nobody is about to use them`,
      ),
      provenance: 'measured',
    },
  ];
}

const DROP = 'sync; echo 1 > /proc/sys/vm/drop_caches';
const COMPACT = 'echo 1 > /proc/sys/vm/compact_memory';

/** compaction_proactiveness: the kernel's default where the file is absent (it came with 5.9). */
const PROACTIVENESS = 20;

function contiguous(twin: Twin, { nodes, zones }: RoomInput): Finding[] {
  const text = twin.capture.tree.readText('/proc/sys/vm/compaction_proactiveness');
  const said = Number.parseInt(text ?? '', 10);
  const p = Number.isInteger(said) ? said : PROACTIVENESS;
  const high = Math.min(Math.max(100 - p, 5) + 10, 100);
  const out: Finding[] = [];
  for (const n of nodes) {
    const mine = zones.filter((z) => z.node === n.node);
    const perZone = mine.map(
      (z) => `${z.zone}: ${usableChunks(z, 9)} of 2M, ${z.extfrag} % of what is free is in smaller pieces`,
    );
    if (n.order9 === 0) {
      out.push({
        code: 'no-contiguous',
        severity: 'warn',
        sentence: `node ${n.node} has no free piece of 2M that may be used, with ${formatSize(n.freeBytes)} free`,
        evidence: perZone,
        fix: [`dimmer plan contiguous 1 --order 9    # what would make some`, DROP, COMPACT],
        provenance: 'derived',
      });
    } else if (n.score > high) {
      out.push({
        code: 'fragmented',
        severity: 'warn',
        sentence: `free memory of node ${n.node} is in pieces: ${plural(n.order9, 'piece')} of 2M left, ${n.order10} of 4M`,
        evidence: [
          `score ${n.score}, above ${high} the kernel compacts by itself (compaction_proactiveness ${p})`,
          ...perZone,
        ],
        fix: [COMPACT, DROP],
        provenance: 'derived',
      });
    }
  }
  return out;
}

const BELOW: Readonly<Record<Severity, string>> = {
  bad: 'min watermark: requests wait until memory is freed',
  warn: 'low watermark: kswapd is at work',
  note: 'high watermark: memory is in use, most of it perhaps as page cache',
};

function watermarks(twin: Twin, zones: readonly ZoneRoom[]): Finding[] {
  const out: Finding[] = [];
  for (const node of new Set(zones.map((z) => z.node))) {
    const mine = zones.filter((z) => z.node === node && z.managed > 0);
    if (mine.length === 0 || mine.some((z) => z.free > z.high)) continue;
    const below = (mark: 'min' | 'low'): boolean => mine.every((z) => z.free <= z[mark]);
    const severity = below('min') ? 'bad' : below('low') ? 'warn' : 'note';
    const meminfo = parseMeminfo(twin.capture.tree.readText('/proc/meminfo') ?? '');
    const swapKb = meminfo.ok ? meminfoKb(meminfo.value, 'SwapTotal') : undefined;
    const swapFreeKb = meminfo.ok ? meminfoKb(meminfo.value, 'SwapFree') : undefined;
    out.push({
      code: 'below-watermarks',
      severity,
      sentence: `node ${node} has no zone above its ${BELOW[severity]}`,
      evidence: [
        ...mine.map((z) => `${z.zone}: ${z.free} pages free, min ${z.min}, low ${z.low}, high ${z.high}`),
        ...(swapKb === undefined
          ? []
          : [swapKb === 0 ? 'no swap: process memory cannot leave' : `swap: ${swapFreeKb ?? 0} of ${swapKb} kB free`]),
      ],
      fix: [DROP, `dimmer explain node:${node}    # who holds it`],
      provenance: 'measured',
    });
  }
  return out;
}

const isKernelZone = (z: ZoneRoom): boolean => z.zone !== 'Movable' && z.zone !== 'Device';

/** Kernel pages may not go to ZONE_MOVABLE: free memory there is of no use to them. ZONE_DMA alone saves nobody. */
function starved(zones: readonly ZoneRoom[]): Finding[] {
  const kernel = zones.filter((z) => isKernelZone(z) && z.zone !== 'DMA' && z.managed > 0);
  const movable = zones.filter((z) => z.zone === 'Movable' && z.free > z.high);
  if (kernel.length === 0 || movable.length === 0 || kernel.some((z) => z.free > z.high)) return [];
  const free = movable.reduce((n, z) => n + z.free, 0) * PAGE_SIZE;
  const cacheHelps = kernel.some((z) => z.free + z.inactiveFile > z.high);
  return [
    {
      code: 'kernel-zones-starved',
      severity: cacheHelps ? 'warn' : 'bad',
      sentence: `kernel zones are out of free memory while ${formatSize(free)} are free in ZONE_MOVABLE, where kernel pages may not go`,
      evidence: kernel.map(
        (z) =>
          `node ${z.node} ${z.zone}: ${z.free} pages free, high watermark ${z.high}, ${z.inactiveFile} inactive page cache`,
      ),
      fix: [
        'offline a free Movable block and bring it back: echo offline, then online_kernel > /sys/devices/system/memory/memoryN/state (it cannot be unplugged any more)',
        'add memory with auto_online_blocks set to online_kernel',
      ],
      provenance: 'measured',
    },
  ];
}

/** auto_movable_ratio: the kernel's default, and its documentation's advice. */
const MOVABLE_RATIO = 301;

function ratio(twin: Twin, zones: readonly ZoneRoom[]): Finding[] {
  const params = readMemhpParams(twin.capture.tree);
  const limit = (params.ok ? params.value.autoMovableRatio : undefined) ?? MOVABLE_RATIO;
  const sum = (of: (z: ZoneRoom) => boolean): number => zones.filter(of).reduce((n, z) => n + z.present, 0);
  const kernel = sum(isKernelZone);
  const movable = sum((z) => z.zone === 'Movable');
  if (kernel === 0 || limit === 0 || movable * 100 <= limit * kernel) return [];
  const percent = Math.round((100 * movable) / kernel);
  const marks = zones.filter(isKernelZone);
  const spare = marks.reduce((n, z) => n + Math.max(0, z.free - z.high), 0) * PAGE_SIZE;
  return [
    {
      code: 'ratio-exceeded',
      severity: 'warn',
      sentence: `there is ${percent} % as much ZONE_MOVABLE as kernel memory; above ${limit} % kernel pages run short before anything else does`,
      evidence: [
        `Movable ${formatSize(movable * PAGE_SIZE)}, kernel zones ${formatSize(kernel * PAGE_SIZE)} of which ${formatSize(spare)} are free above the high watermarks`,
        `auto_movable_ratio ${limit}`,
      ],
      fix: [
        'add the next memory with auto_online_blocks set to online_kernel',
        'or let the kernel keep the ratio: online_policy auto-movable, auto_online_blocks online',
      ],
      provenance: 'derived',
    },
  ];
}

/** Struct pages: 64 bytes for each page of 4096. */
const MEMMAP_SHARE = 64;

/** From free memory of kernel zones above their low watermarks; a lone ZONE_DMA is not counted. */
function largestDimmOf(twin: Twin, zones: readonly ZoneRoom[]): DoctorReport['largestDimmBytes'] {
  const blockBytes = twin.blockPages * PAGE_SIZE;
  const pages = zones
    .filter((z) => isKernelZone(z) && z.zone !== 'DMA')
    .reduce((n, z) => n + Math.max(0, z.free - z.low), 0);
  const bytes = Math.floor((pages * PAGE_SIZE * MEMMAP_SHARE) / blockBytes) * blockBytes;
  return { value: bytes, provenance: 'derived' };
}

/** Bytes, whole blocks, that the hypervisor could still plug as one DIMM; without a limit where none was asked. */
function leftOutside(twin: Twin, { hypervisor: h }: Seen): number {
  if (h === undefined) return Number.POSITIVE_INFINITY;
  if (h.slots !== undefined && h.slots.used.length >= h.slots.total) return 0;
  if (h.maxBytes === undefined) return Number.POSITIVE_INFINITY;
  const blockBytes = twin.blockPages * PAGE_SIZE;
  return Math.max(0, Math.floor((h.maxBytes - h.baseBytes - h.pluggedBytes) / blockBytes) * blockBytes);
}

function memmapRoom(twin: Twin, { seen, zones }: RoomInput, largest: DoctorReport['largestDimmBytes']): Finding[] {
  const blockBytes = twin.blockPages * PAGE_SIZE;
  const h = seen.hypervisor;
  const left = h?.maxBytes === undefined ? undefined : h.maxBytes - h.baseBytes - h.pluggedBytes;
  const wanted = left === undefined ? blockBytes : Math.max(blockBytes, left);
  if (largest.value >= wanted || (left !== undefined && left < blockBytes)) return [];
  const none = largest.value < blockBytes;
  const cache = zones.filter(isKernelZone).reduce((n, z) => n + z.inactiveFile, 0) * PAGE_SIZE;
  const cacheHelps = cache * MEMMAP_SHARE >= blockBytes;
  return [
    {
      code: 'no-room-for-memmap',
      severity: !none ? 'note' : cacheHelps ? 'warn' : 'bad',
      sentence: none
        ? `there is no room for the memory map of even one more block: adding memory would ${cacheHelps ? 'have to drop page cache first' : 'fail'}`
        : `the largest DIMM that could be added now is ${formatSize(largest.value)}, ${formatSize(wanted)} are left below maxmem: its memory map comes out of memory that is there`,
      evidence: [
        `1/${MEMMAP_SHARE} of what is added, out of free memory of the kernel zones above their low watermarks`,
        `${formatSize(cache)} of inactive page cache there`,
      ],
      fix: [
        'add it in several smaller DIMMs, each online in a kernel zone or with memory_hotplug.memmap_on_memory=1 before the next',
        ...(none ? [DROP] : []),
      ],
      provenance: 'derived',
    },
  ];
}
