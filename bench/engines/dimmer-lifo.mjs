// Placement `lifo`: Linux's lists, for replays. See dimmer.mjs.

import { createWith } from './dimmer.mjs';

export const create = createWith('lifo');
