// The package imported and required: one module, one addon.
import { createRequire } from 'node:module'
import * as imported from '../../../lib/index.js'

const required = createRequire(import.meta.url)('../../../lib/index.js') as typeof imported
if (required.Tensor !== imported.Tensor) throw new Error('two modules')
const sum = required.add(imported.tensor([1, 2]), required.tensor([3, 4]))
if (String(await sum.data()) !== '4,6') throw new Error('another result')
console.log('ok')
