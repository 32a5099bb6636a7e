// The DMA rule of a pool in a machine file: read, checked, and turned into the frames that the pool may have.
//
//   rule: { addr-max: { bits: 36 }, same-high-bits: 32, align: 64K }
//     │ readRule: the fields of a DmaRule (mm/pools/dma-rule.ts), in the words of a file; checked by formOfRule
//   form, ranges of frames, windows
//     │ windowFor: which of its windows has enough free memory, near the device, and high rather than scarce
//   ranges  ──> PoolSpec.ranges: frames of that window only, now and when the pool grows
//
// Memory counts as free here in whole pageblocks of 2 MiB: after boot there is little else. A pool of a file lives as long as
// the file says, so a rule has no lifetime here. Snook 2007, problems 1 and 2 (spec 9.B).

import { err, ok, type Result } from '#base/result';
import { type Machine, type NodeId, type PoolSpec, type Refusal, toNodeId, ZONE_NAMES, type ZoneName } from '#mm/index';
import { type Extent, extent, intersect } from '#mm/pools/dma-extent';
import { type DmaForm, type DmaRule, formOfRule, restricted } from '#mm/pools/dma-rule';
import { chooseWindow } from '#mm/pools/dma-window';
import { freeOf } from '#mm/pools/pool-move';
import { poolNamed } from '#mm/pools/pool-table';
import type { Field } from './yaml-fields.ts';

/** Words of a file, and the fields of a DmaRule that they are. */
const RULE = {
  'addr-max': 'addrMax',
  'same-high-bits': 'sameHighBits',
  'window-bits': 'windowBits',
  align: 'align',
  boundary: 'boundary',
  'max-segments': 'maxSegments',
  contiguous: 'contiguous',
  node: 'node',
  coherent: 'coherent',
  'encrypted-shared': 'encryptedShared',
} as const satisfies Readonly<Record<string, keyof DmaRule>>;
const STRENGTHS = ['preferred', 'required'] as const;
const PAGEBLOCK = 512;

/** Refuses through the field that is to blame: call it inside of readYaml. */
export function readRule(field: Field): DmaForm {
  const fields = field.map(Object.keys(RULE));
  const bits = (name: string): number | undefined => fields.get(name)?.count(0, 64);
  const bytes = (name: string): number | undefined => fields.get(name)?.size();
  const rule: Record<string, unknown> = {
    addrMax: addressOf(fields.get('addr-max')),
    sameHighBits: bits('same-high-bits'),
    windowBits: bits('window-bits'),
    align: bytes('align'),
    boundary: bytes('boundary'),
    maxSegments: fields.get('max-segments')?.count(1, Number.MAX_SAFE_INTEGER),
    contiguous: fields.get('contiguous')?.flag(),
    node: nodeOf(fields.get('node')),
    coherent: fields.get('coherent')?.flag(),
    encryptedShared: fields.get('encrypted-shared')?.flag(),
  };
  const form = formOfRule(
    Object.fromEntries(Object.entries(rule).filter(([, value]) => value !== undefined)) as DmaRule,
  );
  if (form.ok) return form.value;
  // The engine's sentence begins with its own name of the field.
  const [, name = '', reason = ''] = /^(\w+): (.*)$/s.exec(form.error.message) ?? [];
  const word = Object.entries(RULE).find(([, known]) => known === name)?.[0] ?? '';
  return (fields.get(word) ?? field).refuse(reason === '' ? form.error.message : reason);
}

function addressOf(field: Field | undefined): DmaRule['addrMax'] {
  if (field === undefined) return undefined;
  const fields = field.map(['bits', 'highest']);
  const [bits, highest] = [fields.get('bits')?.count(0, 64), fields.get('highest')?.address()];
  return {
    ...(bits === undefined ? {} : { bits }),
    ...(highest === undefined ? {} : { highest }),
  } as DmaRule['addrMax'];
}

function nodeOf(field: Field | undefined): DmaRule['node'] {
  if (field === undefined) return undefined;
  const fields = field.map(['nodes', 'strength']);
  const nodes = fields.get('nodes') ?? field.refuse('nodes is missing');
  const strength = fields.get('strength')?.oneOf(STRENGTHS) ?? 'preferred';
  return { nodes: nodes.isList ? nodes.list().map((n) => n.count(0, 1023)) : [nodes.count(0, 1023)], strength };
}

/** A pool's spec with what its rule demands: nodes, ranges, and the rule in canonical words. Cost O(pageblocks). */
export function withRule<S extends PoolSpec & { readonly pages: number }>(
  m: Machine,
  spec: S,
  form: DmaForm,
): Result<S, Refusal> {
  const nodes = nodesFor(m, spec, form);
  const zones: readonly ZoneName[] = spec.zones ?? ['DMA', 'DMA32', 'Normal'];
  const memory = nodes.map((node) => ({
    node,
    distance: form.near === undefined ? 10 : Math.min(...form.near.map((near) => m.distance(near, node))),
    extents: freeExtents(m, spec.parent, node, zones),
  }));
  const need = { min: spec.pages, max: Math.max(spec.pages, spec.max ?? spec.pages) };
  const chosen = chooseWindow(form, memory, need, () => 0);
  if (!chosen.ok) return err(chosen.error.refusal);
  const ranges = intersect(form.ranges, [chosen.value.window]);
  const rule = restricted(form, ranges).key;
  return ok({ ...spec, nodes, zones, ranges, rule, class: spec.class ?? 'dma' });
}

/** What the pool says, else the rule's nodes and, where it only prefers them, the others behind, nearest first. */
function nodesFor(m: Machine, spec: PoolSpec, { near, required }: DmaForm): readonly NodeId[] {
  if (spec.nodes !== undefined) return spec.nodes.map((n) => toNodeId(n));
  if (required !== undefined) return required;
  const [home] = near ?? [];
  return home === undefined
    ? m.nodes
    : [
        ...(near ?? []),
        ...m.nodes.filter((n) => !near?.includes(n)).sort((a, b) => m.distance(home, a) - m.distance(home, b)),
      ];
}

/** Free pageblocks of the zones of a node, or of the pool to carve from. */
function freeExtents(m: Machine, parent: string | undefined, node: NodeId, zones: readonly ZoneName[]): Extent[] {
  const source = parent === undefined ? undefined : poolNamed(m, parent);
  const out: { start: number; end: number }[] = [];
  for (const z of m.zones) {
    if (z.node !== node || !zones.includes(ZONE_NAMES[z.zone] as ZoneName)) continue;
    if (source?.kind === 'zone' && source.id !== z.id) continue;
    const from = source?.kind === 'user' ? m.pools[source.id] : z;
    if (from === undefined) continue;
    for (let pfn = z.startPfn - (z.startPfn % PAGEBLOCK); pfn < z.startPfn + z.spanned; pfn += PAGEBLOCK) {
      if (freeOf(m, from, pfn, pfn + PAGEBLOCK) < PAGEBLOCK) continue;
      const last = out[out.length - 1];
      if (last !== undefined && last.end === pfn) last.end += PAGEBLOCK;
      else out.push({ start: pfn, end: pfn + PAGEBLOCK });
    }
  }
  return out.map((r) => extent(r.start, r.end));
}
