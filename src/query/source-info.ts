// Source info: which machine an answer is about, how it was read, and what of it is not known. A machine file has no
// capture: what it says is all there is to know.

import type { CaptureProblem } from '#capture/capture';
import { meminfoKb, parseMeminfo } from '#kernfs/meminfo';
import { type Machine, PAGE_SIZE } from '#mm/index';
import type { Twin } from '#twin/index';

export type SourceInfo = {
  /** `machine`: a computer that a file describes, booted. */
  readonly kind: 'live' | 'directory' | 'lab' | 'bundle' | 'guest' | 'machine';
  /** What the user named, or "this machine". */
  readonly name: string;
  /** ISO 8601, where known. */
  readonly takenAt: string | undefined;
  /** "6.1.0-56-amd64", or "unknown". */
  readonly kernel: string;
  /** `pages`: every frame was seen; `counters`: zones and blocks only. */
  readonly level: Twin['level'];
  readonly blockSizeBytes: number;
  readonly blocks: number;
  readonly totalBytes: number;
  /** MemFree of /proc/meminfo, where it is there. */
  readonly freeBytes: number | undefined;
  readonly problems: readonly CaptureProblem[];
};

export function sourceInfo(twin: Twin): SourceInfo {
  const { origin, tree } = twin.capture;
  const blockSizeBytes = twin.blockPages * PAGE_SIZE;
  const text = tree.readText('/proc/meminfo');
  const meminfo = text === undefined ? undefined : parseMeminfo(text);
  const freeKb = meminfo?.ok === true ? meminfoKb(meminfo.value, 'MemFree') : undefined;
  return {
    kind: origin.kind,
    name: origin.name,
    takenAt: origin.takenAt,
    kernel: twin.kernel,
    level: twin.level,
    blockSizeBytes,
    blocks: twin.blocks.length,
    totalBytes: twin.blocks.length * blockSizeBytes,
    freeBytes: freeKb === undefined ? undefined : freeKb * 1024,
    problems: twin.problems,
  };
}

/** Of a machine that a file describes. Cost O(blocks). */
export function machineInfo(m: Machine, name: string): SourceInfo {
  const blockSizeBytes = m.blockPages * PAGE_SIZE;
  const blocks = m.blockIds().length;
  return {
    kind: 'machine',
    name,
    takenAt: undefined,
    kernel: m.profile.name,
    level: 'pages',
    blockSizeBytes,
    blocks,
    totalBytes: blocks * blockSizeBytes,
    freeBytes: m.pools.reduce((n, p) => n + p.alloc.nrFree() + p.alloc.pcpPages(), 0) * PAGE_SIZE,
    problems: [],
  };
}
