// buildTwin: a capture becomes a Machine, frame by frame.
//
//   1 layout      RAM ranges with node and zone                                     layout.ts
//   2 boot        a machine with nothing placed
//   3 place       used frames get holders; free and unflagged spans are collected   place-frames.ts
//   4 unflagged   not initialised (deferred) | whole pageblocks | per-CPU free | kernel   unflagged.ts
//   5 types       a migrate type for each pageblock, so that pagetypeinfo's sums come out   pageblock-types.ts
//   6 free        spans are cut into the chunks that coalescing must have made, and listed   free-lists.ts
//   7 watermarks  as the capture says
//   8 compare     every counter of the twin beside the file it should equal         compare.ts
//
// Sources: spec 1.4, 1.5, 2.1, 4.4, 6; docs/fidelity.md.

import { err, ok, type Result } from '#base/result';
import type { Capture, CaptureProblem } from '#capture/capture';
import { iomemHidden, parseIomem, systemRamPfnRanges } from '#kernfs/iomem';
import { type MemoryBlocks, readMemoryBlocks } from '#kernfs/memory-blocks';
import { type Pagetypeinfo, parsePagetypeinfo } from '#kernfs/pagetypeinfo';
import { isAtLeast, type KernelVersion, parseVersion } from '#kernfs/version';
import { parseVmstat } from '#kernfs/vmstat';
import { parseZoneinfo, type ZoneinfoZone } from '#kernfs/zoneinfo';
import {
  type BlockId,
  Machine,
  PAGE_SIZE,
  PAGEBLOCK_PAGES,
  type RamRange,
  toPfn,
  type WatermarkSettings,
} from '#mm/index';
import { ZONE_MOVABLE } from '#mm/page-class';
import { computeWatermarks } from '#mm/watermark';
import { compareWithFiles } from './compare.ts';
import { seedFreeLists } from './free-lists.ts';
import { flagsHeadsOnly, joinTails } from './free-tails.ts';
import { hotplugStateOf } from './hotplug-state.ts';
import { type FrameRange, ramFromFlags, ramRanges, zoneIndexOf, zoneOf } from './layout.ts';
import { numaOf } from './numa.ts';
import { emptyTally, FramePlacer, type PlacedFrames, USER_PIN_FRAMES } from './place-frames.ts';
import type { BlockEvidence, Twin, TwinBase, TwinRefusal } from './twin.ts';
import { placeUnflagged, unmanagedIn } from './unflagged.ts';

export type TwinOptions = {
  /** 'search' (default): pageblock types such that pagetypeinfo's sums come out; 'contents': by a glance at the pages. */
  readonly types?: 'search' | 'contents';
  /** As MachineSpec.compat. */
  readonly compat?: 'linux' | 'strict';
  /** Settings of the marks, where they are known better than by the capture's own zones. */
  readonly watermarks?: WatermarkSettings;
};

/** Text files that are missing or do not parse become problems; only memory blocks and zones are indispensable. */
export function buildTwin(capture: Capture, options: TwinOptions = {}): Result<Twin, TwinRefusal> {
  const problems: CaptureProblem[] = [...capture.problems];
  const memory = readMemoryBlocks(capture.tree);
  if (!memory.ok) return err({ reason: 'no-memory-blocks', message: sentence(memory.error) });
  const zoneText = capture.tree.readText('/proc/zoneinfo');
  if (zoneText === undefined) {
    return err({
      reason: 'no-zones',
      message: `${capture.origin.name} has no /proc/zoneinfo, so nothing is known of zones`,
    });
  }
  const zoneinfo = parseZoneinfo(zoneText);
  if (!zoneinfo.ok) return err({ reason: 'unreadable', message: sentence(zoneinfo.error) });
  const pagetypes = optional(capture, '/proc/pagetypeinfo', parsePagetypeinfo, problems);
  const versionText = capture.tree.readText('/proc/version');
  const parsed = versionText === undefined ? undefined : parseVersion(versionText);
  const version = parsed?.ok === true ? parsed.value : undefined;
  const base: TwinBase = {
    capture,
    kernel: version?.release ?? 'unknown',
    blockPages: memory.value.blockSizeBytes / PAGE_SIZE,
    blocks: memory.value.blocks,
    zones: zoneinfo.value,
    pagetypes,
    problems,
  };
  if (pagetypes !== undefined && pagetypes.pageblockOrder !== 9) {
    return err({
      reason: 'unsupported',
      message: `pageblocks of order ${pagetypes.pageblockOrder}: dimmer models x86-64's 2 MiB pageblocks (order 9) only`,
    });
  }
  if (capture.kpageflags === undefined) return ok({ ...base, level: 'counters' });
  const types = options.types === 'contents' ? undefined : pagetypes;
  return ok(buildPages(base, memory.value, capture.kpageflags, types, version, problems, options));
}

const sentence = (p: { file: string; line: number; reason: string }): string =>
  p.line > 0 ? `${p.file}, line ${p.line}: ${p.reason}` : `${p.file}: ${p.reason}`;

/** A file that helps but need not be there. */
function optional<T>(
  capture: Capture,
  path: string,
  parse: (text: string) => Result<T, { file: string; line: number; reason: string }>,
  problems: CaptureProblem[],
): T | undefined {
  const text = capture.tree.readText(path);
  if (text === undefined) return undefined;
  const parsed = parse(text);
  if (parsed.ok) return parsed.value;
  problems.push({
    file: path,
    kind: 'corrupt',
    detail: sentence(parsed.error),
    lost: 'what this file says; the rest still counts',
    remedy: 'capture again',
  });
  return undefined;
}

function buildPages(
  base: TwinBase,
  memory: MemoryBlocks,
  flags: NonNullable<Capture['kpageflags']>,
  pagetypes: Pagetypeinfo | undefined,
  version: KernelVersion | undefined,
  problems: CaptureProblem[],
  options: TwinOptions,
): Twin {
  const { capture, zones } = base;
  const iomem = optional(capture, '/proc/iomem', parseIomem, problems);
  const known = iomem !== undefined && !iomemHidden(iomem) ? systemRamPfnRanges(iomem) : [];
  const ram: readonly FrameRange[] = known.length > 0 ? known : ramFromFlags(flags, memory);
  const ranges = ramRanges(ram, memory, zones);
  const machine = Machine.boot({
    ram: ranges,
    blockSize: memory.blockSizeBytes,
    ...hotplugStateOf(capture.tree, memory, iomemHidden(iomem ?? []) ? undefined : iomem, version?.release),
    cpus: Math.max(1, ...zones.map((z) => z.pagesets.length)),
    ...numaOf(
      capture.tree,
      [...new Set(ranges.map((r) => r.node))].sort((a, b) => a - b),
    ),
    populate: 'nothing',
    compat: options.compat ?? 'strict',
    code: 'shared',
    watermarks: options.watermarks ?? watermarkSettingsOf(zones, sharesMovable(version)),
  });
  const virtioMem = (iomem ?? [])
    .filter((e) => /virtio_mem/.test(e.name))
    .map((e) => ({
      startPfn: Math.ceil(e.startPhys / PAGE_SIZE),
      endPfn: Math.floor(e.endPhys / PAGE_SIZE),
    }));
  const placer = new FramePlacer(machine, {
    flags,
    ...(capture.kpagecgroup === undefined ? {} : { cgroupOf: capture.kpagecgroup }),
    cgroups: capture.cgroups,
    virtioMem,
  });
  const placed = placer.place(ranges);
  noteVmemmap(machine);
  // Kernels that flag only the head of a free chunk: the unflagged frames behind it are free too.
  const spans = flagsHeadsOnly(placed, zones) ? joinTails(placed) : placed;
  placeUnflagged(machine, placer, spans.unflagged, zones);
  seedFreeLists(machine, spans.free, placed.kernelPageblocks, pagetypes);
  takeSpans(machine, ranges, zones);
  for (const p of machine.pools) p.managed = p.present - unmanagedIn(machine, p);
  machine.updateWatermarks(); // sizes of per-CPU lists and min_free_kbytes follow from managed
  takeWatermarks(machine, zones);
  takeCompactionSettings(machine, capture);

  const vmstatText = capture.tree.readText('/proc/vmstat');
  const vmstat = vmstatText === undefined ? undefined : parseVmstat(vmstatText);
  const acquired = vmstat?.ok === true ? vmstat.value.get('nr_foll_pin_acquired') : undefined;
  const released = vmstat?.ok === true ? vmstat.value.get('nr_foll_pin_released') : undefined;
  return {
    ...base,
    level: 'pages',
    machine,
    comparisons: compareWithFiles(machine, base),
    evidence: evidenceOf(machine, placed),
    pinnedSomewhere: acquired === undefined || released === undefined ? undefined : acquired - released,
  };
}

function evidenceOf(m: Machine, placed: PlacedFrames): Map<BlockId, BlockEvidence> {
  return new Map(
    m.blockIds().map((id) => {
      const t = placed.tallies.get(id) ?? emptyTally();
      if (t.userPins >= USER_PIN_FRAMES) return [id, t];
      return [id, { ...t, userPins: 0, pinRuns: t.pinRuns.filter((r) => r.sign !== 'user-pin') }];
    }),
  );
}

/** Blocks that begin with their own memmap (memmap_on_memory): those frames leave with the block. */
function noteVmemmap(m: Machine): void {
  for (let row = 0; row < m.blocks.length; row++) {
    const start = m.blocks.idAt(row) * m.blockPages;
    let pages = 0;
    while (pages < m.blockPages) {
      const f = m.frame(toPfn(start + pages));
      if (f.state !== 'used' || f.class !== 'memmap') break;
      pages += 1 << f.order;
    }
    m.blocks.vmemmapPages[row] = pages - (pages % PAGEBLOCK_PAGES);
  }
}

// ---------------------------------------------------------------------------------------- step 7: spans and watermarks

/** Spans remember where a zone once reached (spec 1.6): the capture knows, and is believed if it covers the RAM there. */
function takeSpans(m: Machine, ranges: readonly RamRange[], zones: readonly ZoneinfoZone[]): void {
  for (const pool of m.zones) {
    const mine = ranges.filter((r) => r.node === pool.node && r.zone === pool.zone && r.offline !== true);
    if (mine.length === 0) continue;
    const start = Math.min(...mine.map((r) => r.start));
    const end = Math.max(...mine.map((r) => r.end));
    const z = zoneOf(zones, pool);
    const covers = z?.startPfn !== undefined && z.startPfn <= start && end <= z.startPfn + z.spanned;
    pool.startPfn = toPfn(covers ? (z.startPfn as number) : start);
    pool.endPfn = toPfn(covers ? (z.startPfn as number) + z.spanned : end);
  }
}

/**
 * Settings that give the marks which were read. Where Linux's own rule gives them, with huge pages or without, they go on
 * by that rule when memory comes or goes; else min_free_kbytes was written by somebody and stays.
 */
export function watermarkSettingsOf(zones: readonly ZoneinfoZone[], share: boolean): WatermarkSettings {
  const input = zones.flatMap((z) => {
    const zone = zoneIndexOf(z.zone);
    return zone === undefined
      ? []
      : [{ node: z.node, zone, managed: z.managed, present: z.present, min: z.min - (z.boost ?? 0) }];
  });
  const movable = share ? ('share' as const) : ('own' as const);
  for (const thp of [true, false]) {
    const settings = { scaleFactor: 10, thp, movable };
    const marks = computeWatermarks(input, settings);
    // Marks are computed while the kernel still frees what it needed to boot: managed grew a little since.
    const near = (a: number, b: number): boolean => Math.abs(a - b) <= 2 + b / 10;
    if (marks.every((w, k) => near(w.min, (input[k] as { min: number }).min))) return settings;
  }
  const sum = input.reduce((n, z) => n + (z.zone === ZONE_MOVABLE && !share ? 0 : z.min), 0);
  return { minFreeKbytes: 4 * sum, scaleFactor: 10, thp: false, movable };
}

/** Before 6.12 (seen on 6.1) Movable takes part in min_free_kbytes like any zone. */
const sharesMovable = (version: KernelVersion | undefined): boolean =>
  version !== undefined && !isAtLeast(version, { major: 6, minor: 12 });

/** Settings of the marks that a capture shows; undefined where it shows no zones. */
export function watermarkSettings(capture: Capture): WatermarkSettings | undefined {
  const zones = parseZoneinfo(capture.tree.readText('/proc/zoneinfo') ?? '');
  const version = parseVersion(capture.tree.readText('/proc/version') ?? '');
  return zones.ok ? watermarkSettingsOf(zones.value, sharesMovable(version.ok ? version.value : undefined)) : undefined;
}

/** What somebody set stays set; a capture without the files has the kernel's defaults. */
function takeCompactionSettings(m: Machine, capture: Capture): void {
  const read = (name: string): number | undefined => {
    const text = capture.tree.readText(`/proc/sys/vm/${name}`)?.trim();
    return text !== undefined && /^\d{1,4}$/.test(text) ? Number(text) : undefined;
  };
  m.vm.extfragThreshold = read('extfrag_threshold') ?? m.vm.extfragThreshold;
  m.vm.compactionProactiveness = read('compaction_proactiveness') ?? m.vm.compactionProactiveness;
}

function takeWatermarks(m: Machine, zones: readonly ZoneinfoZone[]): void {
  for (const pool of m.zones) {
    const z = zoneOf(zones, pool);
    if (z === undefined) continue;
    const p = z.protection;
    pool.zoneMarks = {
      min: z.min,
      low: z.low,
      high: z.high,
      promo: z.promo ?? z.high,
      reserve: [p[0] ?? 0, p[1] ?? 0, p[2] ?? 0, p[3] ?? 0],
    };
    pool.watermarks = pool.zoneMarks;
  }
}
