// Opens one study in OHIF with headless Chromium and prints, as JSON, what a radiologist sees of its report.
// Arguments: URL PROFILE_FOLDER [SCREENSHOT]. Chromium is Debian's; nothing is downloaded.
const { chromium } = require('playwright-core')

const [url, profile, screenshot] = process.argv.slice(2)
const WAIT_MS = 60_000
// The smallest screen a report is read on; a screenshot is high enough for the whole report.
const SIZE = { width: 1024, height: 768 }
const SCREENSHOT_SIZE = { width: 1280, height: 1440 }

async function main() {
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: '/usr/bin/chromium',
    headless: true,
    viewport: SIZE,
    args: [
      '--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--disable-quic', '--no-first-run',
      '--no-proxy-server', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
  })
  try {
    const page = context.pages()[0] ?? (await context.newPage())
    page.setDefaultTimeout(WAIT_MS)
    const errors = []
    page.on('pageerror', (error) => errors.push(String(error.message)))
    await page.goto(url)
    // The tour for new users lies over the page.
    const tour = page.getByText('Skip all')
    const thumbnails = page.locator('[data-cy=study-browser-thumbnail-no-image]')
    await tour.or(thumbnails.first()).first().waitFor()
    await thumbnails.first().waitFor()
    await tour.click({ timeout: 5_000 }).catch(() => {})
    const series = await thumbnails.allInnerTexts()
    await thumbnails.first().dblclick()
    await page.getByText(/^1\.1\./).first().waitFor()
    const seen = await page.evaluate(() => {
      const first = [...document.querySelectorAll('div.font-bold')].find((one) => /^1\./.test(one.textContent))
      const pane = first.closest('.overflow-auto')
      const edge = pane.getBoundingClientRect()
      const rows = [...pane.querySelectorAll('.font-bold, pre, span')].map((one) => {
        const range = document.createRange()
        range.selectNodeContents(one)
        // The text's own boxes: an element may be narrower than what it holds.
        const right = Math.max(...[...range.getClientRects()].map((box) => box.right), edge.left)
        return { tag: one.tagName.toLowerCase(), text: one.textContent, right: Math.round(right) }
      })
      return {
        text: pane.innerText,
        rows,
        left: Math.round(edge.left),
        right: Math.round(edge.left + pane.clientWidth),
        scrolls_sideways: pane.scrollWidth > pane.clientWidth,
      }
    })
    if (screenshot) {
      await page.setViewportSize(SCREENSHOT_SIZE)
      await page.screenshot({ path: screenshot })
    }
    console.log(JSON.stringify({ series, errors, ...seen }))
  } catch (error) {
    // What was on the screen says more than the time that ran out.
    console.error(await context.pages()[0]?.innerText('body').catch(() => ''))
    throw error
  } finally {
    await context.close()
  }
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
