// createFreeArea: one name for the three placements.
//
// The placement decides the data structure (free-area.ts says what each is for): `address` and `fullest` are bitmaps,
// 0.27 bytes a page; `lifo` is Linux's linked lists, 9 bytes a page and slower, for replays that must fragment as
// Linux does.

import type { Code } from '#base/specialise';
import type { FreeArea, Placement } from './free-area.ts';
import { createAddressArea } from './free-area-address.ts';
import { createLifoArea } from './free-area-lifo.ts';

/**
 * An empty area; frames arrive by online(), free() or put().
 *
 * @param pages  a multiple of 1024, at most 2^31
 * @param code   'own' for the areas of a long-lived machine, 'shared' for forks (base/specialise.ts)
 */
export const createFreeArea = (pages: number, placement: Placement, code: Code): FreeArea =>
  placement === 'lifo' ? createLifoArea(pages, code) : createAddressArea(pages, placement, code);
