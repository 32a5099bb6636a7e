// Jointly: how much could go now, one block after another, until memory is short?
//
// Blocks that go one by one do not all go together: each takes free memory away, and its pages need room elsewhere. So
// the blocks with verdict yes leave one fork of the twin in turn, cheapest first (fewest pages to move, then the
// highest address, as chmem does), until the next one would leave less free memory than the high watermarks ask for,
// or STUCK_MAX of them did not find room. What stops it, and what would raise the total, is part of the answer.

import { formatSize, groupDigits, plural } from '#base/format';
import { type BlockId, PAGE_SIZE } from '#mm/index';
import { HOLDER_CLEAN } from './place-frames.ts';
import type { Figure } from './provenance.ts';
import type { Twin } from './twin.ts';
import { type BlockVerdict, type JudgeHelp, runOffline } from './verdict.ts';

/** So many blocks in a row that find no room mean that there is none; each try costs as much as a judgement. */
const STUCK_MAX = 8;

export type JointAnswer = {
  /** In the order they should go. */
  readonly order: readonly BlockId[];
  readonly bytes: number;
  readonly pagesToMigrate: Figure;
  readonly predictedMs: Figure;
  /** One sentence. */
  readonly stoppedBy: string;
  /** One sentence each; most promising first. */
  readonly wouldRaise: readonly string[];
};

/** @param help  what may be used beyond what Linux has: the same as the verdicts had */
export function jointly(twin: Twin, verdicts: readonly BlockVerdict[], help: JudgeHelp = {}): JointAnswer {
  const candidates = verdicts
    .filter((v) => v.verdict === 'yes')
    .sort((a, b) => a.pagesToMigrate.value - b.pagesToMigrate.value || b.block - a.block);
  const wouldRaise = raisers(twin, verdicts);
  const blockBytes = twin.blockPages * PAGE_SIZE;
  if (twin.level === 'counters') {
    return {
      order: candidates.map((v) => v.block),
      bytes: candidates.length * blockBytes,
      pagesToMigrate: { value: 0, provenance: 'assumed' },
      predictedMs: { value: 0, provenance: 'assumed' },
      stoppedBy: 'an upper bound: without page flags nothing is known of what would have to move, or where to',
      wouldRaise,
    };
  }
  const m = (help.machine ?? twin.machine).fork();
  const free = (): number => m.zones.reduce((n, p) => n + p.alloc.nrFree(), 0);
  const wanted = (): number => m.zones.reduce((n, p) => n + Math.max(0, p.watermarks.high), 0);
  const order: BlockId[] = [];
  let pages = 0;
  let ms = 0;
  let stuck = 0;
  let stoppedBy = 'all blocks that can go one by one can also go together';
  for (const v of candidates) {
    const left = free() - twin.blockPages;
    if (left < wanted()) {
      stoppedBy =
        `free memory: after ${countBlocks(order.length)} ${plural(free(), 'page')} are free, and ${groupDigits(wanted())} have to stay free ` +
        `(high watermarks): ${sizeOf(Math.max(0, free() - wanted()))} to spare, one more block takes ${sizeOf(twin.blockPages)}`;
      break;
    }
    const work = runOffline(m, v.block, help.evictors);
    if (work.refusal !== undefined) {
      // A later one may still find room: its pages may be fewer, or allowed elsewhere.
      if (stuck === 0) stoppedBy = work.refusal.message;
      if (++stuck === STUCK_MAX) break;
      continue;
    }
    help.onDone?.(v.block, m, work);
    order.push(v.block);
    pages += work.migratedPages;
    ms += v.predictedMs.value;
  }
  return {
    order,
    bytes: order.length * blockBytes,
    pagesToMigrate: { value: pages, provenance: 'derived' },
    predictedMs: { value: Math.round(ms), provenance: 'assumed' },
    stoppedBy,
    wouldRaise,
  };
}

/** What would make more blocks go, from what the verdicts and the page cache say. */
function raisers(twin: Twin, verdicts: readonly BlockVerdict[]): string[] {
  const out: string[] = [];
  const count = (code: BlockVerdict['code']): number => verdicts.filter((v) => v.code === code).length;
  if (twin.level === 'pages') {
    let clean = 0;
    twin.machine.holders.specs.forEach((s, h) => {
      if (s.name.startsWith(HOLDER_CLEAN)) clean += twin.machine.holders.pages[h] as number;
    });
    if (clean > twin.blockPages / 8) {
      out.push(
        `dropping the page cache frees ${plural(clean, 'clean page')}, ${sizeOf(clean)} (sync; echo 1 > /proc/sys/vm/drop_caches)`,
      );
    }
    const slabOnly = verdicts.filter(
      (v) => v.code === 'unmovable' && v.blockers.every((b) => b.class === 'slab'),
    ).length;
    if (slabOnly > 0) {
      out.push(
        `${countBlocks(slabOnly)} held by slab pages alone; some of that is reclaimable (echo 2 > /proc/sys/vm/drop_caches)`,
      );
    }
  }
  if (count('pin-sign') > 0)
    out.push(`${countBlocks(count('pin-sign'))} may go once what looks pinned is let go (see dimmer explain)`);
  if (count('no-target') > 0)
    out.push(`${countBlocks(count('no-target'))} could go if there were free memory elsewhere for their pages`);
  if (count('deferred') > 0)
    out.push(`${countBlocks(count('deferred'))} held back by struct pages that the kernel has not initialised yet`);
  if (count('zone-only') > 0) out.push('reading as root tells which pages are where (/proc/kpageflags)');
  if (count('unmovable') > 0) {
    out.push(
      `${countBlocks(count('unmovable'))} with kernel pages: boot with movable_node or kernelcore=, or online added memory with online_movable`,
    );
  }
  return out;
}

const sizeOf = (pages: number): string => formatSize(pages * PAGE_SIZE);
const countBlocks = (n: number): string => `${n} block${n === 1 ? '' : 's'}`;
