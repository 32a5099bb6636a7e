// The evictor of remapping: kernel pages of an offline go elsewhere, under the addresses that they have.
//
//   class              claims
//   K V T H            yes
//   X                  hard-pinned
//   D M                not its business: the driver's, and the memmap's mover (9.E, 9.D)
//   unknown, deferred  untyped: it refuses by default
//   all else           not kernel memory
//
//   prepare   a way back: an offline that is refused later brings displaced pages home before their pageblocks are used again
//   evict     by its owner, if that says that it moves it: no address is displaced
//             home, where frames are held for the page; by whole leaf, where that is the policy; else anywhere
//   commit    nothing: addresses live on without their memory
//
// Spec 9.C; Hansen 2005: "Kernel will transparently move the contents of these physical pages to new pages, keeping constant
// virtual addresses".

import { ok } from '#base/result';
import type { Evictor, Occupant } from '../evictor.ts';
import type { HolderSpec } from '../holder.ts';
import { kernelClassOf } from '../kernel-class.ts';
import type { Machine } from '../machine.ts';
import { migrateAllocation, moverAt, offlineTargets } from '../migrate.ts';
import { CLASS_TRAITS } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import type { BlockerCause } from '../refusal.ts';
import { intoHeld, isHomeHeld, undoEvacuation } from './home.ts';
import { type KremapState, kremapState } from './kremap-state.ts';
import { type MoveFailure, movePages, type Part, type Place, partAt } from './protocol.ts';
import { giveBack, takeTarget } from './target.ts';
import { moveWholeLeaf } from './whole-leaf.ts';

export type LeafPolicy = 'page' | 'whole-leaf';

export type RemapOptions = {
  /** 'page' (default): a displaced page splits its leaf. 'whole-leaf': all of the leaf goes, if that can be had. */
  readonly policy?: LeafPolicy;
  /** 'refuse': the kernel's image stays, as a policy, and its memory with it. Default 'move'. */
  readonly image?: 'move' | 'refuse';
};

/** What remapping says of an allocation: 'yes', why not, or undefined: not its business. Cost O(1). */
export function remapClaim(m: Machine, head: number, options: RemapOptions = {}): 'yes' | BlockerCause | undefined {
  const spec = m.holders.specs[m.holders.holderOf(m.sections.ownerAt(head))] as HolderSpec; // an allocation has one
  switch (kernelClassOf(spec)) {
    case 'K':
      return spec.class === 'reserved' && options.image === 'refuse' ? 'reserved' : 'yes';
    case 'V':
    case 'T':
    case 'H':
      return 'yes';
    case 'X':
      return 'hard-pinned';
    case 'D':
    case 'M':
      return undefined;
    default:
      return spec.class === 'unknown' || spec.class === 'deferred' ? 'untyped' : undefined;
  }
}

/** Pools that the pages of an allocation may go to: its user pool, else the zonelist of its node. */
export function targetsOf(m: Machine, part: Part): Int32Array {
  const source = m.poolAt(part.head) as Pool; // an allocation that moves is online
  return source.kind === 'user' ? Int32Array.of(source.id) : m.zonelist(source.node, CLASS_TRAITS[part.cls].topZone);
}

/** Any free frames of these pools become the target of each part. */
export const anywhere =
  (m: Machine, list: Int32Array): Place =>
  ([part]) => {
    if (part === undefined) return undefined;
    part.to = takeTarget(m, list, part.order);
    return part.to < 0 ? undefined : () => giveBack(m, part.to, part.order);
  };

/** Moves an allocation out of isolated pageblocks, by the policy. */
export function evictPart(k: KremapState, part: Part, policy: LeafPolicy): 'moved' | MoveFailure {
  if (isHomeHeld(k, part)) {
    const home = movePages(k, [part], intoHeld(k), { faults: 'ask' });
    if (home !== 'no-target') return home;
  }
  const list = targetsOf(k.m, part);
  if (policy === 'whole-leaf' && moveWholeLeaf(k, part, list) === 'moved') return 'moved';
  return movePages(k, [part], anywhere(k.m, list), { faults: 'ask' });
}

/** Kernel pages are remapped by the offline that is given this. A value without state: it may be used again and again. */
export function remapEvictor(options: RemapOptions = {}): Evictor {
  return {
    name: 'remap',
    claims: (m: Machine, a: Occupant) => remapClaim(m, a.head, options),
    prepare(m, range) {
      const start: number = m.sections.pfnOf(range.start);
      return ok(() => undoEvacuation(kremapState(m), start, start + range.end - range.start));
    },
    evict(m, a) {
      if (moverAt(m, a.head) !== undefined) {
        const moved = migrateAllocation(m, a.head, offlineTargets(m, m.poolAt(a.head) as Pool)); // it lies in a block online
        return moved === 'final' ? 'unmovable' : moved;
      }
      const k = kremapState(m);
      const part = partAt(k, a.head);
      if (part === undefined) return 'unmovable'; // claims said yes to none such
      const outcome = evictPart(k, part, options.policy ?? 'page');
      return outcome === 'raced' ? 'fault' : outcome;
    },
  };
}
