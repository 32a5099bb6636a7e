// The code that forks of a machine run: one factory for all instances (src/base/specialise.ts). A second instance is
// made first, so that V8 cannot specialise for the only one.

import { createWith } from './dimmer.mjs';

const make = createWith('address', 'shared');
const another = make(1024);
another.freePages(another.allocPages(0, 1), 0);

export const create = make;
