"""The words that name one of the 80 COCO categories, and what the published lemma rule does to
them.

Source: Rohrbach et al., "Object Hallucination in Image Captioning" (2018); synonyms after Lu et al.
(2018). Words are separated by commas; the category itself always counts. The published list has a
few slips (a leading space, "knive", "phon", "iPhone" though captions are lower-cased); they are
kept, because the published figures rest on them.
"""

from __future__ import annotations

__all__ = ["ABSENT", "IRREGULAR", "NODES", "PAIRS", "SYNONYMS", "VERBS"]

_CATEGORIES: dict[str, str] = {
    # people
    "person": (
        "girl,boy,man,woman,kid,child,chef,baker,people,adult,rider,children,baby,worker,passenger,"
        "sister,biker,policeman,cop,officer,lady,cowboy,bride,groom,male,female,guy,traveler,"
        "mother,father,gentleman,pitcher,player,skier,snowboarder,skater,skateboarder,foreigner,"
        "caller,offender,coworker,trespasser,patient,politician,soldier,grandchild,serviceman,"
        "walker,drinker,doctor,bicyclist,thief,buyer,teenager,student,camper,driver,solider,hunter,"
        "shopper,villager"
    ),
    # vehicles
    "bicycle": "bike,unicycle,minibike,trike",
    "car": "automobile,van,minivan,sedan,suv,hatchback,cab,jeep,coupe,taxicab,limo,taxi",
    "motorcycle": "scooter, motor bike,motor cycle,motorbike,moped",
    "airplane": "jetliner,plane,air plane,monoplane,aircraft,jet,airbus,biplane,seaplane",
    "bus": "minibus,trolley",
    "train": "locomotive,tramway,caboose",
    "truck": "pickup,lorry,hauler,firetruck",
    "boat": (
        "ship,liner,sailboat,motorboat,dinghy,powerboat,speedboat,canoe,skiff,yacht,kayak,"
        "catamaran,pontoon,houseboat,vessel,rowboat,trawler,ferryboat,watercraft,tugboat,schooner,"
        "barge,ferry,sailboard,paddleboat,lifeboat,freighter,steamboat,riverboat,battleship,"
        "steamship"
    ),
    # the street
    "traffic light": "street light,traffic signal,stop light,streetlight,stoplight",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "pew",
    # animals
    "bird": (
        "ostrich,owl,seagull,goose,duck,parakeet,falcon,robin,pelican,waterfowl,heron,hummingbird,"
        "mallard,finch,pigeon,sparrow,seabird,osprey,blackbird,fowl,shorebird,woodpecker,egret,"
        "chickadee,quail,bluebird,kingfisher,buzzard,willet,gull,swan,bluejay,flamingo,cormorant,"
        "parrot,loon,gosling,waterbird,pheasant,rooster,sandpiper,crow,raven,turkey,oriole,cowbird,"
        "warbler,magpie,peacock,cockatiel,lorikeet,puffin,vulture,condor,macaw,peafowl,cockatoo,"
        "songbird"
    ),
    "cat": "kitten,feline,tabby",
    "dog": (
        "puppy,beagle,pup,chihuahua,schnauzer,dachshund,rottweiler,canine,pitbull,collie,pug,"
        "terrier,poodle,labrador,doggie,doberman,mutt,doggy,spaniel,bulldog,sheepdog,weimaraner,"
        "corgi,cocker,greyhound,retriever,brindle,hound,whippet,husky"
    ),
    "horse": (
        "colt,pony,racehorse,stallion,equine,mare,foal,palomino,mustang,clydesdale,bronc,bronco"
    ),
    "sheep": "lamb,ram,goat,ewe",
    "cow": "cattle,oxen,ox,calf,holstein,heifer,buffalo,bull,zebu,bison",
    "elephant": "",
    "bear": "panda",
    "zebra": "",
    "giraffe": "",
    # things carried
    "backpack": "knapsack",
    "umbrella": "",
    "handbag": "wallet,purse,briefcase",
    "tie": "bow,bow tie",
    "suitcase": "suit case,luggage",
    # sports
    "frisbee": "",
    "skis": "ski",
    "snowboard": "",
    "sports ball": "ball",
    "kite": "",
    "baseball bat": "",
    "baseball glove": "",
    "skateboard": "",
    "surfboard": "longboard,skimboard,shortboard,wakeboard",
    "tennis racket": "racket",
    # the table
    "bottle": "",
    "wine glass": "",
    "cup": "",
    "fork": "",
    "knife": "pocketknife,knive",
    "spoon": "",
    "bowl": "container",
    # food
    "banana": "",
    "apple": "",
    "sandwich": "burger,sub,cheeseburger,hamburger",
    "orange": "",
    "broccoli": "",
    "carrot": "",
    "hot dog": "",
    "pizza": "",
    "donut": "doughnut,bagel",
    "cake": " cheesecake,cupcake,shortcake,coffeecake,pancake",
    # furniture
    "chair": "seat,stool",
    "couch": "sofa,recliner,futon,loveseat,settee,chesterfield",
    "potted plant": "houseplant",
    "bed": "",
    "dining table": "table,desk",
    "toilet": "urinal,commode,lavatory,potty",
    # electronics
    "tv": "monitor,televison,television",
    "laptop": "computer,notebook,netbook,lenovo,macbook,laptop computer",
    "mouse": "",
    "remote": "",
    "keyboard": "",
    "cell phone": "mobile phone,phone,cellphone,telephone,phon,smartphone,iPhone",
    # the kitchen
    "microwave": "",
    "oven": "stovetop,stove,stove top oven",
    "toaster": "",
    "sink": "",
    "refrigerator": "fridge,freezer",
    # the house
    "book": "",
    "clock": "",
    "vase": "",
    "scissors": "",
    "teddy bear": "teddybear",
    "hair drier": "hairdryer",
    "toothbrush": "",
}

SYNONYMS: dict[str, str] = {
    word: node
    for node, words in _CATEGORIES.items()
    for word in (node, *filter(None, words.split(",")))
}
"""Every word or pair of words of the metric, and the category (node) it names."""

NODES: tuple[str, ...] = tuple(_CATEGORIES)
"""The 80 COCO categories."""

_PAIRS = (
    "motor bike,motor cycle,air plane,traffic light,street light,traffic signal,stop light,fire"
    " hydrant,stop sign,parking meter,suit case,sports ball,baseball bat,baseball glove,tennis"
    " racket,wine glass,hot dog,cell phone,mobile phone,teddy bear,hair drier,potted plant,laptop"
    " computer,stove top oven,home plate,train track"
)
_YOUNG = "bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,animal,cub"

PAIRS: dict[str, str] = (
    {pair: pair for pair in _PAIRS.split(",")}
    | {f"{age} {animal}": animal for animal in _YOUNG.split(",") for age in ("baby", "adult")}
    | {"bow tie": "tie", "passenger jet": "jet", "passenger train": "train"}
    | {"toilet seat": "toilet", "wine glas": "wine glass"}
)
"""Two lemmas in a row that count as one word, and the word that they count as."""

IRREGULAR: dict[str, str] = {
    "children": "child",
    "oxen": "ox",
    "geese": "goose",
    "mice": "mouse",
    "knives": "knife",
    "pocketknives": "pocketknife",
    "thieves": "thief",
    "calves": "calf",
    "women": "woman",
    "gentlemen": "gentleman",
    "policemen": "policeman",
    "servicemen": "serviceman",
    "grandchildren": "grandchild",
    "busses": "bus",
    "taxies": "taxi",
    "buffaloes": "buffalo",
    "flamingoes": "flamingo",
    "dobermen": "doberman",
    "skis": "ski",
    "sports": "sport",
}
"""Noun forms that no suffix rule gives, and their lemma in WordNet 3.0."""

ABSENT: frozenset[str] = frozenset(
    [
        "biker",
        "bluejay",
        "brindle",
        "coworker",
        "doggie",
        "firetruck",
        "hairdryer",
        "knive",
        "lenovo",
        "longboard",
        "macbook",
        "netbook",
        "paddleboat",
        "pitbull",
        "riverboat",
        "sailboard",
        "shortboard",
        "skimboard",
        "skis",
        "smartphone",
        "solider",
        "stovetop",
        "teddybear",
        "televison",
        "vase",
    ]
)
"""Words whose plural the published rule misses: WordNet lacks it, or prefers a shorter lemma
("vases" -> "vas").
"""

VERBS: frozenset[str] = frozenset(
    [
        "automobile",
        "baby",
        "backpack",
        "ball",
        "barge",
        "bat",
        "bear",
        "bed",
        "bench",
        "bicycle",
        "bike",
        "bird",
        "boat",
        "book",
        "bottle",
        "bow",
        "bowl",
        "buffalo",
        "bull",
        "bulldog",
        "bus",
        "cake",
        "canoe",
        "cat",
        "chair",
        "clock",
        "cocker",
        "cop",
        "couch",
        "cow",
        "crow",
        "cub",
        "cup",
        "doctor",
        "dog",
        "duck",
        "falcon",
        "father",
        "ferry",
        "foal",
        "fork",
        "fowl",
        "goose",
        "groom",
        "gull",
        "guy",
        "horse",
        "hound",
        "jet",
        "kayak",
        "kid",
        "kitten",
        "knife",
        "lamb",
        "microwave",
        "monitor",
        "mother",
        "motorbike",
        "motorboat",
        "motorcycle",
        "mouse",
        "officer",
        "parrot",
        "phone",
        "pup",
        "purse",
        "quail",
        "racket",
        "ram",
        "raven",
        "sandwich",
        "seaplane",
        "seat",
        "ship",
        "sink",
        "skateboard",
        "ski",
        "snowboard",
        "soldier",
        "spoon",
        "stool",
        "sub",
        "surfboard",
        "table",
        "taxi",
        "telephone",
        "tie",
        "train",
        "truck",
        "unicycle",
        "yacht",
    ]
)
"""Words that are verbs as well, so that "tied" or "skiing" can be lemmatised to an object word."""
