// Placement `fullest`: single frames from the fullest pageblock. See dimmer.mjs.

import { createWith } from './dimmer.mjs';

export const create = createWith('fullest');
