package volume

// crashScripts are short runs of every operation.
var crashScripts = map[string]func(r *crashRun){
	"create": func(r *crashRun) { r.create("x"); r.sync("x", false); r.syncDir() },
	"create, no sync": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 5000)
		r.syncDir()
		r.sync("a", true)
		r.checkpointAll()
	},
	"overwrite": func(r *crashRun) { r.write("a", 4096, 8192); r.sync("a", true); r.checkpointAll() },
	"part": func(r *crashRun) {
		r.write("a", 100, 50)
		r.write("a", 5000, 3000)
		r.sync("a", true)
		r.checkpointAll()
	},
	"append": func(r *crashRun) {
		r.write("a", 20_000, 700)
		r.sync("a", true)
		r.write("a", 20_700, 700)
		r.sync("a", true)
		r.checkpointAll()
	},
	"new group": func(r *crashRun) { r.write("a", 200_000, 9000); r.sync("a", true); r.checkpointAll() },
	"fill a gap": func(r *crashRun) {
		r.write("a", 1_000_000, 10)
		r.sync("a", true)
		r.checkpointAll()
		r.write("a", 500_000, 10)
		r.sync("a", true)
		r.checkpointAll()
	},
	"truncate":   func(r *crashRun) { r.truncate("a", 5000); r.sync("a", true); r.checkpointAll() },
	"to nothing": func(r *crashRun) { r.truncate("a", 0); r.sync("a", false); r.checkpointAll() },
	"grow":       func(r *crashRun) { r.truncate("a", 600_000); r.sync("a", true); r.checkpointAll() },
	"regrow": func(r *crashRun) {
		r.truncate("b", 3000)
		r.write("b", 250_000, 5000)
		r.sync("b", true)
		r.checkpointAll()
	},
	"cut twice": func(r *crashRun) {
		r.truncate("b", 300_000)
		r.truncate("b", 9000)
		r.truncate("b", 310_000)
		r.sync("b", true)
		r.checkpointAll()
	},
	"punch": func(r *crashRun) { r.punch("b", 1000, 20_000); r.sync("b", true); r.checkpointAll() },
	"punch what was reserved": func(r *crashRun) {
		r.allocate("b", 0, 700_000)
		r.checkpointAll()
		r.write("b", 400_000, 5000)
		r.punch("b", 350_000, 300_000)
		r.checkpointAll()
		r.sync("b", true)
	},
	"punch, write, punch": func(r *crashRun) {
		r.allocate("b", 0, 700_000)
		r.punch("b", 200_000, 450_000)
		r.write("b", 500_000, 9000)
		r.checkpointAll()
		r.punch("b", 200_000, 450_000)
		r.write("b", 504_096, 100)
		r.checkpointAll()
		r.truncate("b", 300_000)
		r.punch("b", 0, 400_000)
		r.truncate("b", 600_000)
		r.sync("b", true)
		r.checkpointAll()
	},
	"zero range":  func(r *crashRun) { r.zero("b", 319_000, 20_000); r.sync("b", true); r.checkpointAll() },
	"allocate":    func(r *crashRun) { r.allocate("b", 0, 400_000); r.sync("b", true); r.checkpointAll() },
	"rename":      func(r *crashRun) { r.rename("a", "x"); r.syncDir(); r.write("x", 0, 10); r.sync("x", true) },
	"unlink":      func(r *crashRun) { r.write("a", 0, 5000); r.close("a"); r.unlink("a"); r.checkpointAll(); r.syncDir() },
	"unlink open": func(r *crashRun) { r.write("a", 0, 5000); r.unlink("a"); r.checkpointAll(); r.syncDir() },
	"replace": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 6000)
		r.rename("x", "a")
		r.syncDir()
		r.checkpointAll()
	},
	"replace closed": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 6000)
		r.close("x")
		r.close("a")
		r.rename("x", "a")
		r.checkpointAll()
		r.syncDir()
	},
	"freeze": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 6000)
		r.write("a", 4096, 5000)
		r.frozen()
		r.write("a", 0, 4096)
		r.write("x", 3000, 6000)
		r.sync("x", true)
		r.checkpointAll()
	},
	"freeze twice": func(r *crashRun) {
		r.truncate("b", 9000)
		r.frozen()
		r.frozen()
		r.truncate("b", 30_000)
		r.sync("b", true)
		r.frozen()
		r.write("b", 0, 10)
	},
	"stuck": func(r *crashRun) {
		r.stick("a")
		r.write("a", 0, 9000)
		r.punch("a", 12_000, 5000)
		r.sync("a", true)
		r.fill()
		r.heal()
		r.checkpointAll()
		r.write("a", 0, 100)
		r.sync("a", true)
	},
	"stuck and cut": func(r *crashRun) {
		r.write("a", 300_000, 5000)
		r.checkpointAll()
		r.stick("a")
		r.truncate("a", 5000)
		r.write("a", 250_000, 5000)
		r.write("a", 100, 100)
		r.sync("a", true)
		r.fill()
		r.write("a", 255_000, 5000)
		r.sync("a", true)
		r.heal()
		r.checkpointAll()
		r.fill()
	},
	"sync after checkpoint": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 6000)
		r.checkpointAll()
		r.write("x", 3000, 6000)
		r.sync("x", true)
		r.truncate("x", 100)
		r.checkpointAll()
		r.sync("x", false)
	},
}
