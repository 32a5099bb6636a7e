// The boot itself: a machine switched on from nothing but QEMU's words and the command line, beside what the guest had.
//
//   -m, -numa        RAM of each node, in the order of the nodes: below the hole first, then above 4 GiB
//   /proc/iomem      which of those frames are System RAM (firmware keeps some)
//   command line     kernelcore=, movablecore=, movable_node, memhp_default_state=, mem= (mm/boot-params.ts)
//   -device          DIMMs that were there at boot: the ACPI driver adds them like any other
//
// Compared: block size, which blocks there are, valid_zones of each; spanned, present and start_pfn of every zone.

import { assert } from '#base/assert';
import { toNodeId, toPfn } from '#base/units';
import type { Capture } from '#capture/capture';
import { iomemHidden, parseIomem, systemRamPfnRanges } from '#kernfs/iomem';
import { readMemoryBlocks } from '#kernfs/memory-blocks';
import { parseVersion } from '#kernfs/version';
import { parseZoneinfo } from '#kernfs/zoneinfo';
import { VirtioMem } from '#mm/drivers/virtio-mem';
import { QemuVirtioMem } from '#mm/drivers/virtio-mem-device';
import { Machine, PAGE_SIZE, plugDimm, type RamRange, ZONE_NAMES } from '#mm/index';
import { profileOfRelease } from '#mm/kernel-profile';
import type { Device } from './device-memory.ts';
import { type Op, qemuSize, qemuWords } from './ops.ts';
import type { Tally } from './tally.ts';

type Boot = Op & { op: 'boot' };
type NodeSpan = { readonly node: number; readonly start: number; readonly end: number };

const FOUR_GIB = 2 ** 32;

/** Guest-physical bytes of each node, ascending: -numa's backends laid one after the other, around the hole. */
function nodeSpans(boot: Boot): NodeSpan[] | undefined {
  const ram = qemuSize((boot.memory[0] ?? '').split(',')[0] ?? '', 'MiB');
  if (ram === undefined) return undefined;
  const below = Math.min(ram, ram >= 0xb0000000 ? 0x80000000 : 0xb0000000);
  const backends = new Map(
    (boot.backends ?? []).map((b) => [qemuWords(b).id, qemuSize(qemuWords(b).size ?? '', 'bytes')] as const),
  );
  const nodes = (boot.numa ?? []).map(qemuWords).filter((w) => w[''] === 'node');
  const sizes = nodes.map((w) => [Number(w.nodeid ?? 0), backends.get(w.memdev) ?? 0] as const);
  if (sizes.length === 0) sizes.push([0, ram]);
  const out: NodeSpan[] = [];
  let at = 0;
  for (const [node, size] of sizes) {
    const end = at + size;
    if (at < below) out.push({ node, start: at, end: Math.min(end, below) });
    if (end > below) out.push({ node, start: Math.max(at, below) - below + FOUR_GIB, end: end - below + FOUR_GIB });
    at = end;
  }
  return at === ram ? out : undefined; // else -numa does not say all
}

/** @param devices  DIMMs that were there at boot, and virtio-mem devices of which the guest has plugged what they ask */
export function compareBoot(tally: Tally, boot: Boot, capture: Capture, devices: readonly Device[]): void {
  const { tree } = capture;
  const spans = nodeSpans(boot);
  const iomem = parseIomem(tree.readText('/proc/iomem') ?? '');
  const zones = parseZoneinfo(tree.readText('/proc/zoneinfo') ?? '');
  const memory = readMemoryBlocks(tree);
  if (spans === undefined || !iomem.ok || iomemHidden(iomem.value) || !zones.ok || !memory.ok) return;
  const ram: RamRange[] = [];
  for (const r of systemRamPfnRanges(iomem.value)) {
    for (const s of spans) {
      const start = Math.max(r.startPfn, s.start / PAGE_SIZE);
      const end = Math.min(r.endPfn, s.end / PAGE_SIZE);
      if (start < end) ram.push({ start: toPfn(start), end: toPfn(end), node: toNodeId(s.node) });
    }
  }
  const version = parseVersion(tree.readText('/proc/version') ?? '');
  const m = Machine.boot({
    ram,
    cmdline: boot.cmdline,
    kernel: profileOfRelease(version.ok ? version.value.release : '').name,
    compat: 'linux',
    code: 'shared',
  });
  for (const d of devices) {
    if (d.driver !== 'pc-dimm') {
      const node = toNodeId(d.node);
      const size = { regionSize: d.size, requestedSize: d.requested ?? 0 };
      const driver = VirtioMem.probe(m, new QemuVirtioMem({ addr: d.start, node, ...size }), { name: d.id });
      assert(driver.ok, 'the region of the device is free at boot', { id: d.id });
      driver.value.settle();
      continue;
    }
    const range = { start: toPfn(d.start / PAGE_SIZE), end: toPfn((d.start + d.size) / PAGE_SIZE) };
    plugDimm(m, range, toNodeId(d.node));
  }
  tally.compare('boot', 'block size', memory.value.blockSizeBytes, m.blockPages * PAGE_SIZE);
  const ids = memory.value.blocks.map((b) => b.id);
  tally.compare('boot', 'blocks', ids.join(' '), m.blockIds().join(' '));
  for (const b of memory.value.blocks) {
    if (b.validZones === undefined) continue;
    tally.compare('boot', `valid_zones of block ${b.id}`, b.validZones.join(' '), m.validZones(b.id).join(' '));
  }
  for (const z of zones.value) {
    if (!(ZONE_NAMES as readonly string[]).includes(z.zone)) continue;
    const pool = m.zones.find((p) => p.node === z.node && p.name === z.zone);
    const what = `Node ${z.node}, zone ${z.zone}`;
    tally.compare('boot', `${what}, spanned`, z.spanned, pool?.spanned ?? 0);
    tally.compare('boot', `${what}, present`, z.present, pool?.present ?? 0);
    tally.compare('boot', `${what}, start_pfn`, z.startPfn ?? 0, pool?.startPfn ?? 0);
  }
}
