import { createPeer, showPage } from './page.js'

showPage(await createPeer())
