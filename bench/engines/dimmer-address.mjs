// Placement `address`: the default, lowest address first. See dimmer.mjs.

import { createWith } from './dimmer.mjs';

export const create = createWith('address');
